// Types of haltline.js. The frames are those of gateway/PROTOCOL.md.

export declare const PROTOCOL: "haltline.v1.json";

/** A place in the log: keep it as it is. */
export type Cursor = string;
export type Value = string | { prefix: string };

/** Fields AND, values OR; `*` in a type stands for any run of letters. `{}` matches everything. */
export interface Filter {
  workflow?: Value[];
  bot?: Value[];
  strategy?: Value[];
  execution?: Value[];
  node?: Value[];
  type?: string[];
  and?: Filter[];
  or?: Filter[];
  not?: Filter;
}

export type From =
  | { live: true }
  | { cursor: Cursor }
  | { seq: number }
  | { last: number }
  | { since: string }
  | { snapshot: true };

export interface HaltState {
  scope: string;
  state: "normal" | "alert" | "hold" | "halt" | "shutdown" | "unknown";
  rev?: number;
  by: string;
  reason: string;
  ts: string | null;
  /** False while the gateway does not hear the control bucket: show UNKNOWN. */
  sure: boolean;
  /** Which workers have confirmed it, for levels that stop something. */
  workers?: { confirmed: number; total: number; complete: boolean; silent?: string[]; open: number };
}

export interface Welcome {
  t: "welcome";
  v: number;
  conn: string;
  gw: string;
  head: Cursor;
  oldest: Cursor;
  ping_ms: number;
  pong_ms: number;
  name: string;
  role: "viewer" | "operator" | "admin";
  until?: string;
  limits: { subs: number; msg: number; last: number; snapshot: number; queue_bytes: number };
  halt: HaltState;
  scoped?: HaltState[];
}

export interface Subd {
  t: "subd";
  rid?: number;
  id: string;
  was_recovering: boolean;
  recovered: boolean;
  from: Cursor;
  until: Cursor;
}

export interface Gap {
  t: "gap";
  id: string;
  after: Cursor;
  next: Cursor;
  reason: "retention" | "purged" | "epoch";
  lost: number | null;
}

export interface Err {
  t: "err";
  rid?: number;
  code: string;
  msg: string;
  retry: boolean;
  gap?: Gap;
}

export interface Ping {
  t: "ping";
  head: Cursor;
  upstream: boolean;
}

/** An event as it is stored; fields that do not apply are absent. */
export interface HaltlineEvent {
  type: string;
  id: string;
  execution_id?: string;
  workflow_id?: string;
  bot_id: string;
  strategy_id: string;
  timestamp: string;
  node_id?: string;
  [field: string]: unknown;
}

/** An execution of a snapshot: the fields of a listing, `nodes` if the filter names executions. */
export interface Item {
  execution_id: string;
  workflow_id: string;
  status: string;
  nodes?: Record<string, { status: string; attempt?: number; started_at?: string; ended_at?: string; duration_ms?: number; error?: string }>;
  [field: string]: unknown;
}

export interface ConnectionState {
  state: "connecting" | "open" | "lost" | "closed";
  reason: string;
  /** Milliseconds since 1970. */
  since: number;
}

export interface Options {
  /** `ws(s)://host/v1/ws`; in a page its own host. */
  url?: string;
  /** A token, or what gives one: called anew for each connection and before a token ends. */
  token?: string | (() => string | Promise<string>);
  /** For people who read the gateway's log. */
  name?: string;
  /** Where there is no global one. */
  WebSocket?: unknown;
  socketOptions?: unknown;
  onState?(state: ConnectionState): void;
  onWelcome?(welcome: Welcome): void;
  /** A control flag: with each welcome, then with each change. */
  onHalt?(halt: HaltState): void;
  onPing?(ping: Ping): void;
  onMark?(cursor: Cursor): void;
  onError?(error: Err): void;
}

export interface Handlers {
  event?(event: HaltlineEvent, at: { cursor: Cursor; count: number }): void;
  /** What the subscription will not get. */
  gap?(gap: Gap): void;
  snapshot?(items: Item[], at: { at: Cursor; more: boolean }): void;
  /** Everything that was there has been given. */
  live?(cursor: Cursor): void;
  /** It began (again). */
  began?(subd: Subd): void;
  /** It was refused; unless `retry`, it is over. */
  error?(error: Err): void;
}

export interface Subscription {
  readonly cursor: Cursor | null;
  readonly live: boolean;
  close(): void;
}

export declare class Haltline {
  constructor(options?: Options);
  readonly state: ConnectionState;
  readonly welcome: Welcome | null;
  subscribe(
    what?: { filter?: Filter; from?: From; ifGap?: "continue" | "snapshot" | "reject"; mode?: "lossless" | "conflate" },
    handlers?: Handlers,
  ): Subscription;
  close(): void;
}

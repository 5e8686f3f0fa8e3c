//! Every limit of the wire, each with its reason. A value above one of these is refused with an
//! error that names it; nothing is cut off silently.

/// Bytes of a definition or one message: below the server's default
/// `max_payload` of 1 MiB with room for headers and the envelope.
pub const MESSAGE_BYTES_MAX: usize = 900 * 1024;
/// Bytes of an execution's input: with [`RESULTS_BYTES_MAX`] it still fits the final record.
pub const INPUT_BYTES_MAX: usize = 380 * 1024;
/// Bytes of an error's text; a longer one ends in `… (cut)`.
pub const ERROR_BYTES_MAX: usize = 4096;
/// Failed nodes that a record names; how many there are is counted beside. With the input and the
/// results they fit one message.
pub const ERRORS_MAX: usize = 20;
/// Bytes of an error's text in that list; the node's `node_failed` event has all of it.
pub const ERROR_BRIEF_BYTES_MAX: usize = 256;
/// Bytes of one node's outputs in a message: four of them still fit one downstream task.
pub const OUTPUT_BYTES_MAX: usize = 200 * 1024;
/// Bytes of one node's outputs above which the large ones go to the object store: what is carried from task to task, and
/// told to every watcher, stays small.
pub const OUTPUT_INLINE_BYTES_MAX: usize = 64 * 1024;
/// Bytes of an output below which it stays where it is: a reference has about 150.
pub const PAYLOAD_BYTES_MIN: usize = 4 * 1024;
/// Bytes of one output: a worker has it in memory as text and as a value.
pub const PAYLOAD_BYTES_MAX: usize = 8 << 20;
/// Bytes of all that the inputs of one node refer to.
pub const PAYLOADS_BYTES_MAX: usize = 32 << 20;
/// Bytes of all resolved inputs of one task.
pub const TASK_INPUT_BYTES_MAX: usize = 800 * 1024;
/// Bytes of `results` in a terminal event and record; above it they are left out
/// (`results_omitted`) and stay readable in the execution's `node_completed` events.
pub const RESULTS_BYTES_MAX: usize = 512 * 1024;
/// Bytes of outputs that a segment's last result may carry for the nodes before it; the worker hands
/// the rest of the segment back when it would be more.
pub const SEGMENT_BYTES_MAX: usize = 256 * 1024;
/// Nodes of a workflow: what one coordinator keeps in memory and a reader can still page through.
pub const NODES_MAX: usize = 10_000;
/// Nodes in one segment: bounds the work that is lost when a worker dies (each node's own result is
/// kept) and the time one task occupies a slot.
pub const SEGMENT_NODES_MAX: usize = 16;
/// Bytes of an id or name: it must fit a subject token, escaped, and stay readable.
pub const ID_BYTES_MAX: usize = 128;
/// Bytes of a node's name, a reason, or other text for people.
pub const TEXT_BYTES_MAX: usize = 1024;
/// Bytes of the reasons that a control value keeps together: the first and the latest.
pub const REASONS_BYTES_MAX: usize = 4 * TEXT_BYTES_MAX;
/// Bytes of a submission key.
pub const KEY_BYTES_MAX: usize = 256;
/// Nodes with an unknown outcome that a record names; the others follow once these are resolved.
pub const UNKNOWN_NODES_MAX: usize = 64;
/// Bytes of the error and the ids that a record gives for each of them: beside input and results.
pub const UNKNOWN_TEXT_BYTES_MAX: usize = 512;
/// Attempts of one node.
pub const ATTEMPTS_MAX: u32 = 20;
/// How often the inputs of one node are read again: each time it waited for longer than they may be old. A limit that is
/// shorter than reading takes would otherwise never end.
pub const READINGS_MAX: u32 = 10;
/// Nodes that are read again for one node; of more none is, since the task names them.
pub const READ_AGAIN_NODES_MAX: usize = 64;
/// A node's longest time-out: one day; longer waits are not a node's work.
pub const NODE_TIMEOUT_MS_MAX: u64 = 24 * 3600 * 1000;
/// A node's time-out when its definition names none.
pub const NODE_TIMEOUT_MS_DEFAULT: u64 = 30_000;
/// Longest delay between two attempts: it is spent holding the task.
pub const RETRY_DELAY_MS_MAX: u64 = 60_000;
/// Tasks of one execution that are released at once; the rest waits in the execution's state.
pub const RELEASED_TASKS_MAX: usize = 256;
/// How long an execution may last: as long as its record and events are kept.
pub const EXECUTION_MS_MAX: u64 = 30 * 24 * 3600 * 1000;
/// Nesting depth of JSON values in definitions and inputs.
pub const JSON_DEPTH_MAX: usize = 64;

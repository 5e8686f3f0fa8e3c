//! A random run.

use std::{collections::BTreeMap, time::Duration};

use anyhow::Context;
use haltline_common::types::feed::{Cursor, Filter, From, IfGap, Mode};
use haltline_tests::until;
use serde_json::json;

use super::{
    check::check,
    client::{Client, Want},
    truth,
    world::World,
};

/// Everything arrives within this time, also after a gateway or a stream was replaced.
const ARRIVES_WITHIN: Duration = Duration::from_secs(60);
const KINDS: [&str; 5] = ["execution_started", "node_started", "node_completed", "node_failed", "execution_completed"];
/// What ends a run: every subscription wants it.
const SENTINEL: &str = "sentinel";

/// Random numbers that a seed repeats.
pub struct Rng(u64);

impl Rng {
    /// From a seed.
    pub fn new(seed: u64) -> Self {
        Self(seed.wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1)
    }
    /// The next number.
    pub fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11
    }
    /// One below `n`.
    pub fn below(&mut self, n: u64) -> u64 {
        self.next() % n
    }
    /// Whether it is one in `n`.
    pub fn one_in(&mut self, n: u64) -> bool {
        self.below(n) == 0
    }
}

/// What happened.
#[derive(Debug, Default)]
pub struct Tally {
    pub events: u64,
    pub connections: u64,
    pub resumed: u64,
    pub gaps: u64,
    pub purges: u64,
    pub replaced: u64,
    pub gateways: u64,
    pub brokers: u64,
    /// Messages with several events.
    pub together: u64,
}

impl Tally {
    /// Adds another one's.
    pub fn add(&mut self, o: Self) {
        self.events += o.events;
        self.connections += o.connections;
        self.resumed += o.resumed;
        self.gaps += o.gaps;
        self.purges += o.purges;
        self.replaced += o.replaced;
        self.gateways += o.gateways;
        self.brokers += o.brokers;
        self.together += o.together;
    }
}

fn filter(rng: &mut Rng, depth: u64) -> Filter {
    let mut f = json!({});
    let mut pick = |rng: &mut Rng, name: &str, values: &[&str]| {
        if rng.one_in(4) {
            let value = values[rng.below(values.len() as u64) as usize];
            f[name] = match value.strip_suffix('~') {
                Some(prefix) => json!([{ "prefix": prefix }]),
                None => json!([value]),
            };
        }
    };
    pick(rng, "workflow", &["w0", "w1", "w~"]);
    pick(rng, "bot", &["b1", "b2", "b~"]);
    pick(rng, "strategy", &["s1", "none"]);
    pick(rng, "execution", &["exec_w1_~", "exec_w0_1", "exec_w2_2"]);
    pick(rng, "node", &["n0", "n1"]);
    pick(rng, "type", &["node_*", "*_started", "execution_*", "*_comp*"]);
    let mut f: Filter = serde_json::from_value(f).expect("a filter");
    if depth > 0 {
        if rng.one_in(4) {
            f.or = vec![filter(rng, depth - 1), filter(rng, depth - 1)];
        }
        if rng.one_in(5) {
            f.not = Some(Box::new(filter(rng, depth - 1)));
        }
        if rng.one_in(6) {
            f.and = vec![filter(rng, depth - 1)];
        }
    }
    f
}

fn want(rng: &mut Rng, world: &mut World) -> Want {
    let head = world.truth.head();
    let from = match rng.below(8) {
        0 => From::Seq(rng.below(head + 1) + 1),
        1 => From::Last(rng.below(20) as usize),
        2 => From::Snapshot(true),
        3 => From::Cursor(Cursor::bare(world.truth.epoch(), rng.below(head + 1))),
        _ => From::Live(true),
    };
    let end = json!({ "type": [SENTINEL] });
    let filter = Filter { or: vec![filter(rng, 2), serde_json::from_value(end).expect("a filter")], ..Filter::default() };
    Want {
        filter,
        from,
        if_gap: if rng.one_in(4) { IfGap::Snapshot } else { IfGap::Continue },
        mode: if rng.one_in(6) { Mode::Conflate } else { Mode::Lossless },
    }
}

async fn publish(rng: &mut Rng, world: &mut World, prefix: &str, tally: &mut Tally) -> anyhow::Result<()> {
    for _ in 0..=rng.below(12) {
        let n = [rng.next(), rng.next(), rng.next(), rng.next(), rng.next()];
        let execution = format!("exec_w{}_{}", n[0] % 3, n[1] % 3);
        // Some are stored twice.
        let event = |rng: &mut Rng, n: [u64; 5]| {
            let kind = KINDS[rng.below(KINDS.len() as u64) as usize];
            let id = format!("{prefix}/{}", rng.below(200));
            truth::event(kind, &id, n).to_string()
        };
        let (subject, body) = match rng.below(30) {
            0 => (world.names().command(&execution), json!({ "type": "cancel", "execution_id": execution }).to_string()),
            1 => (world.names().note(&execution), "no event".to_owned()),
            // What was told in the same instant: several events of an execution, now and then with a line that is none.
            2..=12 => {
                let mut lines = Vec::new();
                for _ in 0..2 + rng.below(5) {
                    let node = rng.next();
                    lines.push(if rng.one_in(20) { "no event".to_owned() } else { event(rng, [n[0], n[1], n[2], n[3], node]) });
                }
                tally.together += 1;
                (world.names().note(&execution), lines.join("\n"))
            }
            _ => (world.names().note(&execution), event(rng, n)),
        };
        world.publish(subject, body).await?;
    }
    Ok(())
}

/// Plays one and checks it.
pub async fn play(world: &mut World, rng: &mut Rng) -> anyhow::Result<Tally> {
    let mut tally = Tally::default();
    let run = format!("r{:x}", rng.next());
    let mut clients: Vec<Client> = Vec::new();
    let with_processes = rng.one_in(60);
    let steps = 8 + rng.below(20);
    for step in 0..steps {
        let n = clients.len() as u64;
        match rng.below(24) {
            0..=3 if n < 5 => {
                let wants: BTreeMap<String, Want> = (0..=rng.below(3)).map(|i| (format!("s{i}"), want(rng, world))).collect();
                let mut client = Client::new(wants);
                client.connect(&world.ws()).await.context("a new client")?;
                clients.push(client);
            }
            4..=9 if n > 0 => {
                // Dropped, something happens meanwhile, and back.
                let client = &mut clients[rng.below(n) as usize];
                if let Some(c) = client.current() {
                    c.cut();
                }
                if rng.one_in(2) {
                    publish(rng, world, &run, &mut tally).await?;
                }
                client.connect(&world.ws()).await.context("a client that comes back")?;
            }
            10 if rng.one_in(3) => {
                let present = world.truth.present();
                if !present.is_empty() {
                    let at = present[rng.below(present.len() as u64) as usize];
                    world.purge(at).await?;
                    tally.purges += 1;
                }
            }
            11 => {
                for _ in 0..=rng.below(3) {
                    let present = world.truth.present();
                    if !present.is_empty() {
                        world.delete(present[rng.below(present.len() as u64) as usize]).await?;
                    }
                }
            }
            12 if step > 4 && rng.one_in(8) => {
                world.replace().await?;
                tally.replaced += 1;
            }
            13 if rng.one_in(if with_processes { 1 } else { 6 }) => {
                world.kill_gateway().await?;
                tally.gateways += 1;
            }
            14 if rng.one_in(2) => tally.brokers += u64::from(world.kill_broker().await?),
            _ => publish(rng, world, &run, &mut tally).await?,
        }
    }
    // Who was sent away comes back; then everybody gets the end.
    for client in &mut clients {
        if client.current().is_none_or(|c| c.ended()) {
            client.connect(&world.ws()).await.context("a client that was sent away")?;
        }
    }
    let id = format!("{run}/end");
    let subject = world.names().note("exec_end_0");
    world.publish(subject, truth::event(SENTINEL, &id, [0; 5]).to_string()).await?;
    for client in &mut clients {
        arrives(client, &world.ws(), &id).await?;
    }
    for (n, client) in clients.iter().enumerate() {
        tally.connections += client.connections.len() as u64;
        for (c, connection) in client.connections.iter().enumerate() {
            connection.cut();
            for id in connection.asked.keys() {
                check(&world.truth, connection, id, c + 1 == client.connections.len(), &mut tally)
                    .with_context(|| format!("client {n}, connection {c}, subscription {id}: {:?}", connection.asked[id]))?;
            }
        }
    }
    Ok(tally)
}

/// Waits until all subscriptions have the last event; comes back if the connection ends.
async fn arrives(client: &mut Client, ws: &str, id: &str) -> anyhow::Result<()> {
    until("the last event arrives", ARRIVES_WITHIN, async || {
        let Some(current) = client.current() else { return Ok(None) };
        if current.asked.keys().all(|sub| current.has(sub, id)) {
            return Ok(Some(()));
        }
        if current.ended() {
            client.connect(ws).await?;
        }
        Ok(None)
    })
    .await
}

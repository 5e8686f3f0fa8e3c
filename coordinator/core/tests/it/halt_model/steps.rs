//! What can happen next in a state: worker, server, venue and halting side take one step at a time.

use super::{
    Bug, Name,
    state::{DEADLINE, Entry, Halting, Intent, Phase, State, Worker, wait},
};

type Step = (Name, State);

/// Everything that can happen next.
pub fn successors(state: &State, bug: Bug) -> Vec<Step> {
    let mut steps = Vec::new();
    let mut take = |who: &'static str, n: usize, what: &'static str, change: &dyn Fn(&mut State)| {
        let mut next = state.clone();
        change(&mut next);
        steps.push(((who, n, what), next));
    };
    for (n, w) in state.workers.iter().enumerate() {
        if w.alive {
            worker(state, n, *w, bug, &mut take);
        } else {
            take("worker", n, "comes back", &|s| come_back(&mut s.workers[n], bug));
        }
        server(state, n, *w, bug, &mut take);
    }
    match state.halting {
        Halting::NotYet => take("halting side", 0, "stores the halt", &|s| {
            s.bucket.push(Entry::Halt);
            s.halting = Halting::Stored;
        }),
        Halting::Stored => take("halting side", 0, "hears that it is stored", &|s| s.halting = Halting::Waits(wait(bug))),
        Halting::Waits(_) if state.is_quiet(bug) => take("halting side", 0, "tells that all is quiet", &|s| s.halting = Halting::Told),
        Halting::Waits(_) | Halting::Told => {}
    }
    if state.ticks(bug) {
        take("time", 0, "passes", &|s| s.tick(bug));
    }
    steps
}

type Take<'a> = dyn FnMut(&'static str, usize, &'static str, &dyn Fn(&mut State)) + 'a;

fn worker(state: &State, n: usize, w: Worker, bug: Bug, take: &mut Take) {
    if usize::from(w.delivered) < state.bucket.len() {
        take("worker", n, "is delivered a message of the bucket", &|s| deliver(s, n, bug));
    }
    let wants = w.effects > 0 && !w.halted && w.renewals > 0 && w.awaits.is_none();
    if wants && bug == Bug::LeaderRead {
        let renew = |s: &mut State| {
            let w = &mut s.workers[n];
            w.renewals -= 1;
            w.lease = w.lease_length();
        };
        if !state.bucket.contains(&Entry::Halt) {
            take("worker", n, "reads from the leader that nothing is halted", &renew);
        } else {
            take("worker", n, "reads from a deposed leader that nothing is halted", &renew);
        }
    } else if wants {
        take("worker", n, "sends a renewal", &|s| {
            let w = &mut s.workers[n];
            w.renewals -= 1;
            w.renewal = Some(w.next);
            w.awaits = Some((w.next, w.lease_length()));
            w.next += 1;
        });
    }
    if w.halted && w.confirmed.is_none() {
        let open = w.intent != Intent::None;
        take("worker", n, "confirms", &|s| s.workers[n].confirmed = Some(open));
    }
    let mut go = |what: &'static str, to: Phase| take("worker", n, what, &|s| s.workers[n].phase = to);
    match w.phase {
        // What a former life left open is asked for before the next begins.
        Phase::Idle if w.effects > 0 && w.may_start() && w.intent == Intent::None => {
            take("worker", n, "passes the guard and sends an intent", &|s| {
                let w = &mut s.workers[n];
                w.effects -= 1;
                w.phase = Phase::Intending;
                w.intent = Intent::Sent;
                w.deadline = DEADLINE;
            });
        }
        Phase::Intended if w.may_start() || bug == Bug::NoSecondCheck => take("worker", n, "passes the guard and starts", &|s| {
            s.workers[n].phase = Phase::Started;
            if s.is_told() {
                s.wrong = Some("an effect starts after the confirmation");
            }
        }),
        Phase::Intended => go("is refused by the guard", Phase::Settling),
        Phase::Started => take("worker", n, "sends its request", &|s| {
            s.workers[n].phase = Phase::Sent;
            s.workers[n].request = Some(s.workers[n].deadline);
        }),
        Phase::Settling => take("worker", n, "settles its effect", &|s| {
            s.workers[n].phase = Phase::Idle;
            s.workers[n].intent = Intent::None;
            s.workers[n].deadline = 0;
        }),
        Phase::Idle | Phase::Intending | Phase::Sent => {}
    }
    if state.deaths > 0 {
        take("worker", n, "dies", &|s| {
            s.deaths -= 1;
            let w = &mut s.workers[n];
            (w.alive, w.phase, w.delivered, w.halted, w.awaits, w.lease) = (false, Phase::Idle, 0, false, None, 0);
        });
    }
}

/// What goes on without the worker: messages on their way, the venue, whoever resolves what is in doubt.
fn server(state: &State, n: usize, w: Worker, bug: Bug, take: &mut Take) {
    // What it heard before it waits comes to the same.
    if matches!(state.halting, Halting::Waits(_)) && !w.known && state.has_lease(n) {
        take("halting side", n, "hears of the worker", &|s| s.workers[n].known = true);
    }
    if let Some(renewal) = w.renewal {
        take("server", n, "stores the worker's renewal", &|s| {
            s.bucket.push(Entry::Lease { worker: n as u8, n: renewal });
            let w = &mut s.workers[n];
            w.renewal = None;
            if let (Bug::AckIsEnough, Some((_, left))) = (bug, w.awaits) {
                (w.awaits, w.lease) = (None, left);
            }
        });
    }
    if w.intent == Intent::Sent {
        take("server", n, "stores the worker's intent", &|s| {
            let w = &mut s.workers[n];
            w.intent = Intent::Open;
            if w.phase == Phase::Intending {
                w.phase = Phase::Intended;
            }
        });
        if !w.alive {
            take("server", n, "never gets the dead worker's intent", &|s| {
                s.workers[n].intent = Intent::None;
                s.workers[n].deadline = 0;
            });
        }
    }
    if let Some(left) = w.request {
        take("venue", n, "gets the request", &|s| {
            let taken = left > 0 || bug == Bug::NoDeadline;
            if taken && s.is_told() {
                s.wrong = Some("the venue takes an effect after the confirmation");
            }
            let w = &mut s.workers[n];
            w.request = None;
            if w.phase == Phase::Sent {
                w.phase = Phase::Settling;
            }
        });
    }
    // Whoever goes on with the task asks the venue; it may be that the worker lives and is only slow. The venue
    // tells by its own clock that the deadline has passed, so that what it does not have, it never will.
    let over = w.deadline == 0 || bug == Bug::UndoneEarly;
    if w.intent == Intent::Open && over && (state.bounds.deaths > 0 || !w.alive) && w.phase != Phase::Settling {
        take("somebody else", n, "asks the venue and settles the effect", &|s| {
            s.workers[n].intent = Intent::None;
            s.workers[n].deadline = 0;
        });
    }
}

fn deliver(state: &mut State, n: usize, bug: Bug) {
    let entry = state.bucket[usize::from(state.workers[n].delivered)];
    let w = &mut state.workers[n];
    w.delivered += 1;
    match entry {
        Entry::Halt => w.halted = true,
        Entry::Lease { worker, n: number } => {
            if let Some((awaited, left)) = w.awaits.filter(|(awaited, _)| usize::from(worker) == n && *awaited == number) {
                debug_assert_eq!(awaited, number);
                w.awaits = None;
                w.lease = if bug == Bug::FromReceipt { w.lease_length() } else { left };
            }
        }
    }
}

fn come_back(w: &mut Worker, bug: Bug) {
    w.alive = true;
    w.renewals = 1;
    if bug == Bug::CounterReused {
        w.next = 1;
    }
}

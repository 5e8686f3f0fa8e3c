//! What a coordinator can do: accept, write what is due, read the log, write its checkpoint, take over.

use super::{
    Bug, Sweep,
    state::{Checkpoint, Coordinator, END, Entry, FINAL, Live, Outcome, Record, STARTED, State, TASK, Task, TaskId, accepted, folded},
    steps::{Step, TASKS_MAX},
};

/// Everything that coordinator `c` can do next.
pub fn steps(state: &State, c: usize, bug: Bug, steps: &mut Vec<Step>) {
    let Some(me) = state.coordinators[c] else {
        // Beside an active one: it was taken for dead.
        let alone = state.coordinators.iter().all(Option::is_none);
        if (alone || state.left.rivals > 0) && !state.is_over() {
            let mut next = state.clone();
            next.left.rivals -= u8::from(!alone);
            let Checkpoint { log, records, .. } = state.checkpoint;
            next.coordinators[c] = Some(Coordinator { read: log, records, checkpoint: state.checkpoint, current: true, live: None });
            steps.push((("coordinator", c, "takes over"), next));
        }
        return;
    };
    // It can only read what is over: nothing that it does makes a difference.
    if me.live.is_none() && state.is_over() {
        return;
    }
    let mut take = |name: &'static str, change: &dyn Fn(&mut State, &mut Coordinator)| {
        let (mut next, mut me) = (state.clone(), me);
        change(&mut next, &mut me);
        me.records |= me.live.is_some_and(|live| due(&next, &me, &live, bug) == 0);
        next.coordinators[c] = Some(me);
        steps.push((("coordinator", c, name), next));
    };

    match me.live {
        None if !state.acknowledged => match state.record {
            None => take("creates the record", &|s, me| create(s, me, c)),
            Some(_) if bug == Bug::PutRecord => take("puts the record", &|s, me| create(s, me, c)),
            Some(Record { end: Some(_), .. }) => take("answers that it has ended", &|s, _| s.acknowledged = true),
            Some(_) => take("is asked again and reads the execution", &load),
        },
        None => {}
        Some(live) => {
            let due = due(state, &me, &live, bug);
            if due == 0 && !state.acknowledged {
                take("answers that it is accepted", &|s, _| s.acknowledged = true);
            }
            if due != 0 {
                let output = due & due.wrapping_neg();
                take(name(output), &|s, me| write(s, me, live, output, false, bug));
                if (TASK..END).contains(&output) && state.left.lost_answers > 0 {
                    let lost = |s: &mut State, me: &mut Coordinator| {
                        s.left.lost_answers -= 1;
                        write(s, me, live, output, true, bug);
                    };
                    take("writes a task and the answer is lost", &lost);
                }
            } else if state.left.sweep != Sweep::Off
                && let Some(node) = lost_task(state, &me, &live, bug)
            {
                take("finds a task lost and emits it again", &|s, me| {
                    enqueue(s, node, true, false, Some(s.end()), s.era);
                    me.live = Some(Live { repaired: s.end(), ..live });
                });
            }
        }
    }
    let unread = !me.records || state.left.sweep == Sweep::All;
    if me.live.is_none() && unread && state.record.is_some_and(|r| !me.records || r.end.is_none()) {
        take("finds the record", &load);
    }
    if me.read < state.end() {
        take("reads on", &|s, me| {
            let entry = s.log[usize::from(me.read)];
            me.read += 1;
            // What only tells changes nothing: read with what comes before it.
            while s.log.get(usize::from(me.read)).is_some_and(|e| matches!(e, Entry::Started | Entry::End(_))) {
                me.read += 1;
            }
            if me.live.is_none() && matches!(entry, Entry::Claim { .. } | Entry::Result { .. }) {
                load(s, me);
            }
        });
    }
    // The floor passes what was read once what it caused is stored. A lower floor is written in between,
    // too; a successor only reads more from there, so it is left out here.
    let settled = bug == Bug::FloorEarly || me.live.is_none_or(|live| due(state, &me, &live, bug) == 0);
    let floor = (me.read, me.records || (settled && me.live.is_some()));
    if settled && floor != (me.checkpoint.log, me.checkpoint.records) {
        let mut next = state.clone();
        if me.current {
            let checkpoint = Checkpoint { log: floor.0, records: floor.1 };
            next.checkpoint = checkpoint;
            next.coordinators.iter_mut().flatten().for_each(|other| other.current = false);
            next.coordinators[c] = Some(Coordinator { checkpoint, ..me });
            steps.push((("coordinator", c, "writes its checkpoint"), next));
        } else {
            next.coordinators[c] = None;
            steps.push((("coordinator", c, "finds the checkpoint changed and steps down"), next));
        }
    }
    if state.left.coordinator_crashes > 0 {
        let mut next = state.clone();
        next.left.coordinator_crashes -= 1;
        next.coordinators[c] = None;
        steps.push((("coordinator", c, "dies"), next));
    }
}

fn name(output: u8) -> &'static str {
    match output {
        STARTED => "writes execution_started",
        END => "writes the end",
        FINAL => "writes the final record",
        _ => "writes a task",
    }
}

fn create(state: &mut State, me: &mut Coordinator, c: usize) {
    state.record = Some(Record { creator: c as u8, end: None });
    outdate(state);
    me.live = Some(Live { recovered: false, creator: c as u8, current: true, done: 0, tried: 0, told: None, repaired: 0 });
}

/// The record was written: what others know of it is old.
fn outdate(state: &mut State) {
    for live in state.coordinators.iter_mut().flatten().filter_map(|c| c.live.as_mut()) {
        live.current = false;
    }
}

/// Reads record, log and queue: what is there counts as done.
fn load(state: &mut State, me: &mut Coordinator) {
    let Some(record) = state.record else { return };
    let (told, started) = (state.told(), state.log.contains(&Entry::Started));
    if record.end.is_some() && told.is_some() && started {
        me.live = None;
        me.records = true;
        return;
    }
    let accepted = accepted(&state.log);
    let mut done = if started { STARTED } else { 0 };
    for (node, result) in accepted.iter().enumerate().take(state.left.nodes()) {
        if result.is_some() || state.queue.iter().any(|t| usize::from(t.node) == node) {
            done |= TASK << node;
        }
    }
    if told.is_some() {
        done |= END;
    }
    if record.end.is_some() {
        done |= FINAL;
    }
    me.live = Some(Live { recovered: true, creator: record.creator, current: true, done, tried: 0, told, repaired: 0 });
}

/// Outputs that its state calls for and that are not known to be stored.
fn due(state: &State, me: &Coordinator, live: &Live, bug: Bug) -> u8 {
    let done = folded(&state.log[..usize::from(me.read)], bug);
    let mut outputs = STARTED;
    if live.told.is_some() || done.iter().take(state.left.nodes()).all(Option::is_some) {
        outputs |= END | FINAL;
    } else {
        let next = done.iter().take_while(|n| n.is_some()).count();
        outputs |= TASK << next;
    }
    outputs & !live.done
}

fn write(state: &mut State, me: &mut Coordinator, live: Live, output: u8, answer_lost: bool, bug: Bug) {
    let mut live = Live { done: live.done | output, ..live };
    let done = folded(&state.log[..usize::from(me.read)], bug);
    let walks = done.map(|walk| walk.unwrap_or(0));
    let outcome = live.told.unwrap_or(Outcome { creator: live.creator, walks });
    match output {
        STARTED => append(state, Entry::Started),
        END => append(state, Entry::End(outcome)),
        FINAL => match &mut state.record {
            Some(record) if live.current || bug == Bug::PutRecord => {
                *record = Record { end: Some(outcome), creator: live.creator };
                outdate(state);
                me.live = None;
                me.records = true;
                return;
            }
            // Somebody else wrote it: everything is read anew.
            _ => return load(state, me),
        },
        task => {
            let node = (task / TASK).trailing_zeros() as u8;
            let again = live.tried & task != 0;
            let caused = state.log.iter().position(|e| matches!(e, Entry::Result { node: n, .. } if n + 1 == node)).unwrap_or(0) as u8;
            let era = if caused < state.window { 0 } else { state.era };
            enqueue(state, node, live.recovered, again, None, era);
            if answer_lost {
                live.done &= !output;
                live.tried |= output;
            }
        }
    }
    me.live = Some(live);
}

/// Stores a message of the log, unless the server knows its id.
fn append(state: &mut State, entry: Entry) {
    let same = |e: &Entry| matches!((e, &entry), (Entry::Started, Entry::Started) | (Entry::End(_), Entry::End(_)));
    if !state.log.iter().skip(usize::from(state.window)).any(same) {
        state.log.push(entry);
    }
}

/// Stores a task, unless the server knows its id.
fn enqueue(state: &mut State, node: u8, recovered: bool, again: bool, repair: Option<u8>, era: u8) {
    let id: TaskId = (node, repair);
    if state.window_tasks.contains(&id) {
        return;
    }
    state.window_tasks.push(id);
    let copies = &mut state.tasks[usize::from(node)];
    *copies += 1;
    let seq = node * TASKS_MAX + *copies;
    state.queue.push(Task { seq, node, recovered, again, era, deliveries: 0, holder: None });
}

/// The node whose task is awaited and nowhere, if there is one: not found out twice at one length of the log.
fn lost_task(state: &State, me: &Coordinator, live: &Live, bug: Bug) -> Option<u8> {
    let done = folded(&state.log[..usize::from(me.read)], bug);
    let node = done.iter().take(state.left.nodes()).position(Option::is_none)? as u8;
    let quiet = me.read == state.end() && live.repaired != state.end() && live.told.is_none();
    (quiet && state.queue.iter().all(|t| t.node != node)).then_some(node)
}

//! The index against a list in memory that is filtered and sorted.

use proptest::prelude::*;

use super::{store::Change, *};

fn summary(n: usize, started: i64, pick: [usize; 4]) -> Summary {
    let one = |list: &[&str], i: usize| list[i % list.len()].to_owned();
    let workflow_id = one(&["w0", "w1", "w2"], pick[0]);
    Summary {
        execution_id: format!("exec_{workflow_id}_{n:08x}"),
        workflow_id,
        bot_id: one(&["", "b1", "b2"], pick[1]),
        strategy_id: one(&["", "s1"], pick[2]),
        status: Status::ALL[pick[3] % Status::ALL.len()],
        workflow_version: "1".into(),
        node_count: 3,
        nodes_completed: 1,
        nodes_failed: 0,
        nodes_skipped: 0,
        started_at: Timestamp(started),
        finished_at: None,
        duration_ms: Some(1.5),
        error: None,
        error_type: None,
        failed_node: None,
        reason: None,
    }
}

fn store() -> Store {
    Store::open("").expect("a file")
}

fn put(s: &Summary) -> Change {
    Change::Put(Box::new(s.clone()))
}

/// All pages.
fn all(store: &Store, wanted: &Wanted, order: Order, limit: usize) -> Vec<Summary> {
    let (mut rows, mut after) = (Vec::new(), None);
    loop {
        let page = store.list(wanted, &Page { limit, order, after }).expect("a page");
        assert!(page.rows.len() <= limit);
        rows.extend(page.rows);
        // As it goes over the wire.
        after = page.next.map(|c| c.to_string().parse().expect("a cursor"));
        if after.is_none() {
            return rows;
        }
    }
}

fn expected(model: &BTreeMap<String, Summary>, wanted: &Wanted, order: Order) -> Vec<Summary> {
    let mut rows: Vec<Summary> = model.values().filter(|s| wanted.matches(s)).cloned().collect();
    if wanted.id.is_none() {
        rows.sort_by_key(|s| Place::of(s.started_at, &s.execution_id));
        if order == Order::Newest {
            rows.reverse();
        }
    }
    rows
}

fn wanted() -> impl Strategy<Value = Wanted> {
    let some = |list: &'static [&'static str]| proptest::sample::subsequence(list, 0..=list.len().min(2));
    let owned = |v: Vec<&str>| v.into_iter().map(str::to_owned).collect::<Vec<_>>();
    (
        some(&["w0", "w1", "w2", "gone"]),
        some(&["b1", "b2", "gone"]),
        some(&["s1", ""]),
        proptest::sample::subsequence(Status::ALL.to_vec(), 0..=3),
        proptest::option::of(-5i64..25),
        proptest::option::of(-5i64..25),
        proptest::option::weighted(0.2, proptest::sample::select(vec!["exec_", "exec_w1", "exec_w1_0000000", "other"])),
    )
        .prop_map(move |(w, b, s, statuses, since, until, id)| Wanted {
            workflows: owned(w),
            bots: owned(b),
            strategies: owned(s),
            statuses,
            since: since.map(Timestamp),
            until: until.map(Timestamp),
            id: id.map(str::to_owned),
        })
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    #[test]
    fn every_page_is_what_a_filtered_and_sorted_list_has(
        steps in prop::collection::vec((0usize..40, -3i64..20, any::<[u8; 4]>(), any::<bool>()), 1..120),
        queries in prop::collection::vec((wanted(), any::<bool>(), 1usize..9), 1..12),
    ) {
        let store = store();
        let mut model: BTreeMap<String, Summary> = BTreeMap::new();
        for (batch, chunk) in steps.chunks(7).enumerate() {
            let mut changes = Vec::new();
            for (n, started, pick, gone) in chunk {
                let s = summary(*n, *started, pick.map(usize::from));
                if *gone && pick[0] % 4 == 0 {
                    model.remove(&s.execution_id);
                    changes.push(Change::Gone(s.execution_id));
                } else {
                    changes.push(put(&s));
                    model.insert(s.execution_id.clone(), s);
                }
            }
            let len = store.apply(changes, Some(batch as u64), batch % 2 == 0).expect("applied");
            prop_assert_eq!(len, model.len() as u64);
        }
        for (wanted, newest, limit) in queries {
            let order = if newest { Order::Newest } else { Order::Oldest };
            prop_assert_eq!(all(&store, &wanted, order, limit), expected(&model, &wanted, order));
        }
        let counts = store.counts().expect("counts");
        for status in Status::ALL {
            let n = model.values().filter(|s| s.status == status).count() as u64;
            prop_assert_eq!(counts[status.as_str()], n);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::with_cases(256) })]

    /// A cursor that nobody gave out, with any filter: a page, in order, and no panic.
    #[test]
    fn any_cursor_is_a_place_or_an_error(
        text in prop_oneof!["t[.]-?[0-9]{1,20}[.][0-9a-fA-F]{1,17}", "i[.].{0,9}", any::<String>(), (any::<i64>(), any::<u64>()).prop_map(|(t, n)| format!("t.{t}.{n:x}"))],
        wanted in wanted(),
        bounds in any::<(Option<i64>, Option<i64>, bool)>(),
    ) {
        let Ok(after) = text.parse::<Cursor>() else { return Ok(()) };
        prop_assert_eq!(after.to_string().parse::<Cursor>(), Ok(after.clone()));
        let store = store();
        let rows: Vec<Summary> = (0..20).map(|n| summary(n, n as i64, [n, n / 2, n / 3, n])).collect();
        store.apply(rows.iter().map(put).collect(), Some(1), false).expect("applied");
        let order = if bounds.2 { Order::Newest } else { Order::Oldest };
        let wanted = Wanted { since: bounds.0.map(Timestamp), until: bounds.1.map(Timestamp), ..wanted };
        let page = store.list(&wanted, &Page { limit: 5, order, after: Some(after) }).expect("a page");
        prop_assert!(page.rows.len() <= 5 && page.rows.iter().all(|s| wanted.matches(s)));
    }
}

#[test]
fn a_search_that_finds_little_ends_and_leads_on() {
    let store = store();
    // Every second one of each workflow, and no bot runs both.
    let rows: Vec<Summary> = (0..30_000).map(|n| summary(n, n as i64, [n % 2, 1 + n % 2, 0, 3])).collect();
    store.apply(rows.iter().map(put).collect(), Some(1), false).expect("applied");
    let none = Wanted { workflows: vec!["w0".into()], bots: vec!["b2".into()], ..Wanted::default() };
    let first = store.list(&none, &Page { limit: 10, order: Order::Newest, after: None }).expect("a page");
    assert!(first.rows.is_empty() && first.next.is_some(), "{first:?}");
    assert!(all(&store, &none, Order::Newest, 10).is_empty());
    let some = Wanted { workflows: vec!["w0".into()], bots: vec!["b1".into()], ..Wanted::default() };
    assert_eq!(all(&store, &some, Order::Oldest, 500).len(), 15_000);
}

#[test]
fn what_ended_long_ago_expires_and_what_runs_does_not() {
    let store = store();
    let ended = |n: usize, at: Option<i64>| Summary { finished_at: at.map(Timestamp), ..summary(n, 10, [n, 0, 0, 0]) };
    let rows = [ended(1, Some(50)), ended(2, None), ended(3, Some(200))];
    store.apply(rows.iter().map(put).collect(), Some(1), true).expect("applied");
    assert_eq!(store.expire(Timestamp(100)).ok(), Some(false));
    assert_eq!(all(&store, &Wanted::default(), Order::Newest, 10).len(), 2);
}

#[test]
fn a_file_goes_on_where_it_was_and_a_broken_one_is_made_anew() {
    let folder = std::env::temp_dir().join(format!("haltline-index-test-{}", uuid::Uuid::new_v4()));
    let path = folder.join("index.redb").to_string_lossy().into_owned();
    {
        let store = Store::open(&path).expect("a new one");
        store.apply(vec![Change::Clear("stream 1".into())], Some(0), true).expect("cleared");
        store.apply(vec![put(&summary(1, 1, [0; 4]))], Some(7), true).expect("applied");
        assert!(Store::open(&path).is_err_and(|e| e.contains("another gateway")));
    }
    {
        let store = Store::open(&path).expect("the same");
        let mark = store.mark().expect("a mark");
        assert_eq!((mark.epoch.as_str(), mark.seq, store.len().ok()), ("stream 1", 7, Some(1)));
    }
    std::fs::write(&path, b"nothing of the kind").expect("written");
    let store = Store::open(&path).expect("made anew");
    assert_eq!((store.mark().ok(), store.len().ok()), (Some(Default::default()), Some(0)));
    drop(store);
    std::fs::remove_dir_all(folder).expect("removed");
}

#[test]
fn long_texts_are_cut() {
    let store = store();
    let s = Summary { error: Some("ü".repeat(1000)), ..summary(1, 1, [0; 4]) };
    store.apply(vec![put(&s)], Some(1), false).expect("applied");
    let found = store.list(&Wanted::default(), &Page { limit: 1, order: Order::Newest, after: None }).expect("a page");
    assert_eq!(found.rows[0].error.as_ref().map(|e| e.chars().count()), Some(301));
}

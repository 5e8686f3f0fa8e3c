//! Reading from a real nats-server, the queue of tasks beside its consumer.

use async_nats::jetstream::{
    self,
    consumer::{AckPolicy, pull},
    stream::{Config, RetentionPolicy},
};
use futures_util::StreamExt;
use haltline_server::{Managed, Options, find_or_fetch};
use serde_json::json;

use super::{Source, is_acknowledged};

#[tokio::test]
async fn everything_that_is_left_is_read() {
    let folder = std::env::temp_dir().join(format!("haltline-checker-{}", std::process::id()));
    let binary = tokio::task::spawn_blocking(|| find_or_fetch(|_| ())).await.unwrap().unwrap();
    let server = Managed::start(&binary, Options::new(&folder)).await.unwrap();
    let js = jetstream::new(async_nats::connect(server.url()).await.unwrap());
    for (name, retention) in [("log", RetentionPolicy::Limits), ("records", RetentionPolicy::Limits), ("tasks", RetentionPolicy::WorkQueue)]
    {
        let config = Config { name: name.into(), subjects: vec![format!("{name}.>")], retention, ..Config::default() };
        let stream = js.create_stream(config).await.unwrap();
        if name == "tasks" {
            let config = pull::Config {
                durable_name: Some("workers".into()),
                filter_subject: "tasks.>".into(),
                ack_policy: AckPolicy::Explicit,
                ..pull::Config::default()
            };
            stream.create_consumer(config).await.unwrap();
        }
    }
    let source = Source::connect(&[server.url().to_owned()], "log".into(), "records".into(), "tasks".into()).await.unwrap();
    assert_eq!(source.unfinished().await.unwrap(), (0, 0, 0));
    let put = async |subject: &str, body: serde_json::Value| {
        js.publish(subject.to_owned(), body.to_string().into()).await.unwrap().await.unwrap()
    };
    put("log.1", json!({ "id": 1 })).await;
    put("log.2", json!({ "id": 2 })).await;
    put("records.1", json!({ "execution_id": "e", "status": "running" })).await;
    put("tasks.1", json!({ "task_id": "t1" })).await;
    put("tasks.2", json!({ "task_id": "t2" })).await;
    assert_eq!(source.unfinished().await.unwrap(), (1, 1, 2));
    let ledger = folder.join("ledger.jsonl");
    std::fs::write(&ledger, "{\"key\":\"k\"}\n").unwrap();
    let all = source.all(&ledger).await.unwrap();
    assert_eq!(all.log.iter().map(|m| (m.seq, m.subject.as_str())).collect::<Vec<_>>(), [(1, "log.1"), (2, "log.2")]);
    assert_eq!(all.tasks.iter().map(|m| (m.seq, m.subject.as_str())).collect::<Vec<_>>(), [(1, "tasks.1"), (2, "tasks.2")]);
    assert_eq!((all.records.len(), all.ledger.len()), (1, 1));
    assert!(all.tasks.iter().all(|t| !is_acknowledged(t, &all.floors)));
    let workers: jetstream::consumer::PullConsumer = js.get_consumer_from_stream("workers", "tasks").await.unwrap();
    let task = workers.fetch().max_messages(1).messages().await.unwrap().next().await.unwrap().unwrap();
    task.double_ack().await.unwrap();
    let floors = source.all(&ledger).await.unwrap().floors;
    assert_eq!(floors, [("tasks.".to_owned(), 1)]);
    assert_eq!(all.tasks.iter().map(|t| is_acknowledged(t, &floors)).collect::<Vec<_>>(), [true, false]);
    server.stop().await;
    let _ = std::fs::remove_dir_all(&folder);
}

//! The bare nats-server in the same run: what its messages cost without Haltline.

use std::time::Instant;

use futures_util::StreamExt;
use haltline_client::Client;
use haltline_common::{
    Link, js,
    outbox::{Outbox, Write},
};
use serde_json::{Value, json};

use super::report;

const MESSAGES: usize = 20_000;
const IN_FLIGHT: usize = 500;
const SAMPLES: usize = 300;

/// Measures publishing, request and reply, and a hop, on a stream of its own.
pub async fn measure(client: &Client) -> anyhow::Result<Value> {
    let link = client.link();
    let stream = format!("{}_bench_raw", link.names.namespace());
    let subject = format!("{}.bench_raw", link.names.namespace());
    let config =
        json!({ "name": stream, "subjects": [format!("{subject}.>")], "storage": "file", "num_replicas": 1, "max_bytes": 1 << 30 });
    js::api::<Value>(link, &format!("STREAM.CREATE.{stream}"), &config).await?;
    let publish = publish(link, &subject).await?;
    let request = request(link, &subject).await?;
    let hop = hop(link, &stream, &subject).await?;
    js::api::<Value>(link, &format!("STREAM.DELETE.{stream}"), &Value::Null).await?;
    Ok(json!({ "async_publish_per_s": publish, "request_ms_p50": request, "hop_ms_p50": hop }))
}

/// Stored messages a second, 512 bytes, 500 in flight.
async fn publish(link: &Link, subject: &str) -> anyhow::Result<f64> {
    let mut outbox = Outbox::<()>::open(link).await?;
    let body = vec![b'x'; 512];
    let t = Instant::now();
    for i in 0..MESSAGES {
        if outbox.len() >= IN_FLIGHT {
            let _ = outbox.next().await;
        }
        outbox.send((), Write::with_id(format!("{subject}.publish"), format!("p{i}"), body.clone())).await;
    }
    while !outbox.is_empty() {
        let _ = outbox.next().await;
    }
    Ok(report::round(MESSAGES as f64 / t.elapsed().as_secs_f64()))
}

/// A request and its reply between two subscriptions of this process, without a stream.
async fn request(link: &Link, subject: &str) -> anyhow::Result<f64> {
    let mut asked = link.client.subscribe(format!("{}_ask", subject.replace('.', "_"))).await?;
    let answers = link.client.clone();
    let server = tokio::spawn(async move {
        while let Some(message) = asked.next().await {
            if let Some(reply) = message.reply {
                let _ = answers.publish(reply, message.payload).await;
            }
        }
    });
    let mut samples = Vec::with_capacity(SAMPLES);
    for _ in 0..SAMPLES {
        let t = Instant::now();
        link.client.request(format!("{}_ask", subject.replace('.', "_")), "x".into()).await?;
        samples.push(t.elapsed().as_secs_f64() * 1e3);
    }
    server.abort();
    Ok(report::median(&samples))
}

/// Publish, pull, publish, pull back: two stored messages and two deliveries.
async fn hop(link: &Link, stream: &str, subject: &str) -> anyhow::Result<f64> {
    let consumer = |name: &str| {
        json!({ "stream_name": stream, "config": {
            "durable_name": name, "name": name, "ack_policy": "explicit", "filter_subject": format!("{subject}.{name}") } })
    };
    for name in ["there", "back"] {
        js::api::<Value>(link, &format!("CONSUMER.CREATE.{stream}.{name}.{subject}.{name}"), &consumer(name)).await?;
    }
    let inbox = link.client.new_inbox();
    let mut got = link.client.subscribe(format!("{inbox}.*")).await?;
    let mut outbox = Outbox::<()>::open(link).await?;
    let mut samples = Vec::with_capacity(SAMPLES);
    for i in 0..SAMPLES {
        let t = Instant::now();
        for name in ["there", "back"] {
            let pull = format!("$JS.API.CONSUMER.MSG.NEXT.{stream}.{name}");
            link.client.publish_with_reply(pull, format!("{inbox}.{name}"), r#"{"batch":1,"expires":5000000000}"#.into()).await?;
            outbox.send((), Write::with_id(format!("{subject}.{name}"), format!("{name}{i}"), "x")).await;
            let _ = outbox.next().await;
            if let Some(reply) = got.next().await.and_then(|m| m.reply) {
                link.client.publish(reply, "+ACK".into()).await?;
            }
        }
        samples.push(t.elapsed().as_secs_f64() * 1e3);
    }
    Ok(report::median(&samples))
}

//! Figures for people and programs.

use serde_json::{Value, json};

use crate::output;

/// Rounds to what is meaningful: three decimals below 100, one above.
pub fn round(v: f64) -> f64 {
    let factor = if v.abs() < 100.0 { 1e3 } else { 10.0 };
    (v * factor).round() / factor
}

fn at(sorted: &[f64], part: f64) -> f64 {
    let i = ((sorted.len() as f64) * part) as usize;
    sorted.get(i.min(sorted.len().saturating_sub(1))).copied().unwrap_or(0.0)
}

/// The median.
pub fn median(samples: &[f64]) -> f64 {
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    round(at(&sorted, 0.5))
}

/// Median, least and most.
pub fn range(samples: &[f64]) -> Value {
    let (min, max) = samples.iter().fold((f64::INFINITY, 0.0f64), |(min, max), v| (min.min(*v), max.max(*v)));
    json!({ "median": median(samples), "min": round(min), "max": round(max) })
}

/// p50, p90, p99, or null if there is nothing.
pub fn quantiles(samples: &[f64]) -> Value {
    if samples.is_empty() {
        return Value::Null;
    }
    let mut sorted = samples.to_vec();
    sorted.sort_by(f64::total_cmp);
    json!({ "p50": round(at(&sorted, 0.5)), "p90": round(at(&sorted, 0.9)), "p99": round(at(&sorted, 0.99)) })
}

/// Prints a report for people.
pub fn print(r: &Value) {
    let q = |name: &str| {
        let v = &r[name];
        format!("p50 {}  p90 {}  p99 {}", v["p50"], v["p90"], v["p99"])
    };
    output::line(format!("shape                 {} ({} workflows, {} at once)", text(&r["shape"]), r["workflows"], r["concurrency"]));
    output::line(format!(
        "durability            sync {}, {} replica, {} storage",
        text(&r["durability"]["sync"]),
        r["durability"]["replicas"],
        text(&r["durability"]["storage"])
    ));
    output::line(format!("workflows per second  {}", r["workflows_per_s"]));
    output::line(format!("latency, loaded   ms  {}", q("loaded_latency_ms")));
    output::line(format!("one at a time     ms  {}", q("latency_ms")));
    output::line(format!("to the first node ms  {}", q("time_to_first_node_ms")));
    output::line(format!("step to step      ms  {}", q("step_to_step_ms")));
    output::line(format!(
        "written a workflow    {} messages, {} bytes ({} a node)",
        r["messages_per_workflow"], r["bytes_per_workflow"], r["bytes_per_node"]
    ));
    for p in r["processes"].as_array().into_iter().flatten() {
        output::line(format!("  {:<18}  {} MB, {} s CPU under load", text(&p["name"]), p["rss_mb"], p["cpu_s"]));
    }
    if r["raw"].is_object() {
        let raw = &r["raw"];
        output::line(format!(
            "bare nats-server      {} publishes/s, request {} ms, hop {} ms",
            raw["async_publish_per_s"], raw["request_ms_p50"], raw["hop_ms_p50"]
        ));
    }
    match r["errors"].as_array() {
        Some(errors) if !errors.is_empty() => errors.iter().for_each(|e| output::line(format!("ERROR {}", text(e)))),
        _ => output::line("read back             every event and record is there, each once"),
    }
}

fn text(v: &Value) -> &str {
    v.as_str().unwrap_or("")
}

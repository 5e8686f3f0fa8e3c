//! What the source itself must hold: headers, sizes, who depends on whom, where names are written.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, ensure};
use serde_json::Value;

use crate::{crash, risk};

const LINES_MAX: usize = 800;

fn root() -> &'static Path {
    Path::new(concat!(env!("CARGO_MANIFEST_DIR"), "/.."))
}

/// Every source file with its text, by its path in the repository.
fn sources() -> anyhow::Result<BTreeMap<String, String>> {
    fn walk(dir: &Path, found: &mut Vec<PathBuf>) -> anyhow::Result<()> {
        for entry in std::fs::read_dir(dir)? {
            let path = entry?.path();
            let name = path.file_name().unwrap_or_default().to_string_lossy().into_owned();
            if path.is_dir() && name != "target" && name != "node_modules" && !name.starts_with('.') {
                walk(&path, found)?;
            } else if name.ends_with(".rs") {
                found.push(path);
            }
        }
        Ok(())
    }
    let mut paths = Vec::new();
    walk(root(), &mut paths)?;
    let text = |p: PathBuf| {
        let name = p.strip_prefix(root())?.to_string_lossy().into_owned();
        let text = std::fs::read_to_string(&p).with_context(|| name.clone())?;
        anyhow::Ok((name, text))
    };
    paths.into_iter().map(text).collect()
}

fn offenders(what: &str, wrong: &[String]) -> anyhow::Result<()> {
    ensure!(wrong.is_empty(), "{what}:\n  {}", wrong.join("\n  "));
    Ok(())
}

#[test]
fn every_file_says_what_it_is_for() -> anyhow::Result<()> {
    let wrong: Vec<String> = sources()?.into_iter().filter(|(_, text)| !text.starts_with("//!")).map(|(name, _)| name).collect();
    offenders("files without a header", &wrong)
}

#[test]
fn no_file_is_long() -> anyhow::Result<()> {
    let wrong: Vec<String> = sources()?.into_iter().filter(|(_, text)| text.lines().count() > LINES_MAX).map(|(name, _)| name).collect();
    offenders("files with too many lines", &wrong)
}

#[test]
fn subjects_are_written_in_one_place() -> anyhow::Result<()> {
    let place = |name: &str| {
        name == "common/types/src/names.rs" || name == "common/src/topology/mod.rs" || name.contains("tests/") || name.ends_with("tests.rs")
    };
    let mut wrong = Vec::new();
    for (name, text) in sources()?.iter().filter(|(name, _)| !place(name)) {
        for (n, line) in text.lines().enumerate().filter(|(_, l)| !l.trim_start().starts_with("//")) {
            let literals: Vec<&str> = line.split('"').skip(1).step_by(2).collect();
            if literals.iter().any(|l| [".events.", "$KV.", ".tasks."].iter().any(|subject| l.contains(subject))) {
                wrong.push(format!("{name}:{}: {}", n + 1, line.trim()));
            }
        }
    }
    offenders("subjects outside names.rs and topology", &wrong)
}

#[test]
fn one_module_uses_backoff() -> anyhow::Result<()> {
    let uses =
        |text: &str| text.lines().any(|l| !l.trim_start().starts_with("//") && (l.contains("backoff::") || l.contains("use backoff")));
    let wrong: Vec<String> = sources()?
        .into_iter()
        .filter(|(name, text)| uses(text) && name != "common/src/retry.rs" && name != "tests/tests/it/tidy.rs")
        .map(|(name, _)| name)
        .collect();
    offenders("files that use backoff", &wrong)
}

/// Text literals inside the parentheses of every call of `fault::point`.
fn points(text: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    for (at, call) in text.match_indices("fault::point(") {
        let rest = &text[at + call.len()..];
        let mut depth = 1;
        let end = rest.find(|c| {
            depth += i32::from(c == '(') - i32::from(c == ')');
            depth == 0
        });
        let inside = &rest[..end.unwrap_or(0)];
        found.extend(inside.split('"').skip(1).step_by(2).map(str::to_owned));
    }
    found
}

#[test]
fn every_fault_point_is_crashed_at() -> anyhow::Result<()> {
    let source: BTreeSet<String> =
        sources()?.iter().filter(|(name, _)| !name.starts_with("tests/")).flat_map(|(_, text)| points(text)).collect();
    let elsewhere = || risk::autumn_2008::PLAYED.iter().map(|p| (*p).to_owned());
    let listed: BTreeSet<String> = crash::POINTS.iter().map(|(p, _)| (*p).to_owned()).chain(elsewhere()).collect();
    ensure!(source == listed, "in the source {source:?}, in the list {listed:?}");
    let played: BTreeSet<String> = crash::PLAYED.iter().map(|p| p.split(':').next().unwrap_or(p).to_owned()).chain(elsewhere()).collect();
    ensure!(source == played, "in the source {source:?}, played {played:?}");
    Ok(())
}

/// Direct dependencies of each package, without those of its tests.
fn dependencies() -> anyhow::Result<BTreeMap<String, BTreeSet<String>>> {
    let told =
        Command::new(env!("CARGO")).args(["metadata", "--offline", "--no-deps", "--format-version", "1"]).current_dir(root()).output()?;
    ensure!(told.status.success(), "cargo metadata: {}", String::from_utf8_lossy(&told.stderr));
    let metadata: Value = serde_json::from_slice(&told.stdout)?;
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let mut found = BTreeMap::new();
    for package in metadata["packages"].as_array().context("no packages")? {
        let all = package["dependencies"].as_array().context("no dependencies")?;
        found.insert(text(&package["name"]), all.iter().filter(|d| d["kind"].is_null()).map(|d| text(&d["name"])).collect());
    }
    Ok(found)
}

#[test]
fn dependencies_point_one_way() -> anyhow::Result<()> {
    let of = dependencies()?;
    let mut wrong = Vec::new();
    let mut never = |package: &str, others: &[&str]| {
        let Some(list) = of.get(package) else { return wrong.push(format!("there is no package {package}")) };
        wrong.extend(others.iter().filter(|o| list.contains(**o)).map(|o| format!("{package} -> {o}")));
    };
    // What decides and what is told knows no runtime, no network and no chance.
    for pure in ["haltline-core", "haltline-risk", "haltline-types"] {
        never(pure, &["tokio", "async-nats", "uuid", "rand", "haltline-common", "tracing", "reqwest", "axum"]);
    }
    never("haltline-types", &["haltline-core", "haltline-risk"]);
    let services = ["haltline-coordinator", "haltline-worker", "haltline-gateway"];
    for service in services {
        let others: Vec<&str> =
            services.into_iter().filter(|s| *s != service).chain(["haltline-market", "haltline-server", "haltline-cli"]).collect();
        never(service, &others);
    }
    never("haltline-common", &["haltline-core", "haltline-client", "haltline-server"]);
    never("haltline-client", &["haltline-coordinator", "haltline-worker", "haltline-gateway", "haltline-server"]);
    never("haltline-market", &["haltline-core", "haltline-client", "haltline-worker", "async-nats"]);
    offenders("dependencies that must not be", &wrong)
}

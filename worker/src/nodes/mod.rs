//! The built-in node types, one file each. What a type needs and does outside stands in the catalog
//! (`haltline_types::catalog`), so that validation and workers cannot disagree.

use std::sync::Arc;

use haltline_common::types::catalog::{Effect, NodeType, built_in_types};

use crate::registry::Node;

mod answer;
mod client;
mod compare;
mod fail;
mod http;
mod http_request;
mod http_risk;
mod log;
mod paper_order;
mod params;
mod sleep;
mod static_outputs;
#[cfg(test)]
#[allow(clippy::unwrap_used, reason = "a test may panic")]
mod testing;
mod threshold;

/// All of them. Call it before the guards run: the first call reads the system's certificates.
pub fn built_in() -> Vec<Arc<dyn Node>> {
    client::prepare();
    vec![
        Arc::new(http::Http),
        Arc::new(static_outputs::Static),
        Arc::new(threshold::Threshold),
        Arc::new(compare::Compare),
        Arc::new(paper_order::PaperOrder),
        Arc::new(log::Log),
        Arc::new(sleep::Sleep),
        Arc::new(fail::Fail),
    ]
}

/// The catalog's entry of that name. One that is not there counts as acting, as everything undeclared.
fn described(name: &str) -> NodeType {
    built_in_types().into_iter().find(|t| t.name == name).unwrap_or_else(|| NodeType::new(name, Effect::OpensRisk))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_types_of_the_catalog_are_there() {
        let mut here: Vec<_> = built_in().iter().map(|node| node.describe()).collect();
        let mut catalog = built_in_types();
        here.sort_by(|a, b| a.name.cmp(&b.name));
        catalog.sort_by(|a, b| a.name.cmp(&b.name));
        assert_eq!(here, catalog);
    }
}

//! From definition to plan: everything that can be wrong with a definition is found here, with the
//! node and field it is about.

use std::collections::{BTreeSet, HashMap};

use haltline_types::{
    Effect, SmolStr,
    catalog::NodeType,
    control::{OnHalt, Place},
    definition::{Definition, InputRef, NodeDef, NodeRef, OnError},
    event::Correlation,
    ids::check_id,
    json,
    limits::{
        ATTEMPTS_MAX, EXECUTION_MS_MAX, NODE_TIMEOUT_MS_DEFAULT, NODE_TIMEOUT_MS_MAX, NODES_MAX, OUTPUT_BYTES_MAX, RETRY_DELAY_MS_MAX,
        TEXT_BYTES_MAX,
    },
};

use crate::{outputs::look_up_output, readings, segments};

/// Something wrong with a definition.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{field}: {message}")]
pub struct Problem {
    /// Path of the field, as `nodes[2].inputs.value`.
    pub field: String,
    /// What is wrong, naming the node.
    pub message: String,
    /// The node it is about.
    pub node: Option<SmolStr>,
}

/// A validated definition, ready to run. Nodes are numbered as in the definition.
#[derive(Clone, Debug, PartialEq)]
pub struct Plan {
    definition: Definition,
    nodes: Vec<PlanNode>,
    by_id: HashMap<SmolStr, u32>,
    on_halt: Option<OnHalt>,
}

/// What the plan knows of a node.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PlanNode {
    /// Nodes that must complete first.
    pub deps: Vec<u32>,
    /// Nodes that wait for this one.
    pub dependents: Vec<u32>,
    /// The next node of the linear chain this one is in.
    pub chain_next: Option<u32>,
    /// Nodes left in that chain, this one included.
    pub chain_left: u32,
    /// What it does outside.
    pub effect: Effect,
    /// It may run while its scope is halted.
    pub allowed_while_halted: bool,
    /// The venue it acts at; empty for none.
    pub venue: SmolStr,
    /// Nodes that its inputs come from and that can run again when these are too old, each behind those it depends
    /// on. Only of a node with `max_input_age`.
    pub read_again: Vec<u32>,
}

/// More problems than this are not reported: the first ones matter.
const PROBLEMS_MAX: usize = 50;

impl Plan {
    /// Validates `definition` against the node types there are.
    ///
    /// # Errors
    /// All problems found, up to 50, never none.
    pub fn compile(definition: &Definition, types: &[NodeType]) -> Result<Self, Vec<Problem>> {
        let mut check = Check { problems: Vec::new() };
        check.head(definition);
        if definition.nodes.is_empty() || definition.nodes.len() > NODES_MAX {
            let n = definition.nodes.len();
            check.add("nodes", None, format!("a workflow has 1 to {NODES_MAX} nodes, this one has {n}"));
            return Err(check.problems);
        }
        let types: HashMap<&str, &NodeType> = types.iter().map(|t| (t.name.as_str(), t)).collect();
        let mut by_id = HashMap::new();
        for (i, node) in definition.nodes.iter().enumerate() {
            check.node(i, node, &types);
            if by_id.insert(node.id.clone(), i as u32).is_some() {
                check.add(format!("nodes[{i}].id"), Some(node), format!("node id `{}` is used twice", node.id));
            }
        }
        let mut nodes = check.edges(definition, &by_id);
        if check.problems.is_empty() {
            check.cycle(definition, &nodes);
        }
        if !check.problems.is_empty() {
            return Err(check.problems);
        }
        segments::link(&mut nodes);
        for (node, def) in nodes.iter_mut().zip(&definition.nodes) {
            let Some(kind) = types.get(def.kind.as_str()) else { continue };
            node.effect = kind.effect_of(def);
            node.allowed_while_halted = def.allowed_while_halted || kind.allowed_while_halted;
            node.venue = if def.venue.is_empty() { kind.venue.clone() } else { def.venue.clone() };
        }
        let computes = |def: &NodeDef| types.get(def.kind.as_str()).is_some_and(|t| t.computes_only);
        readings::link(&mut nodes, definition, &by_id, &computes);
        let acts = nodes.iter().any(|n| n.effect.touches_risk() && !n.allowed_while_halted);
        let on_halt = definition.on_halt.or(acts.then_some(OnHalt::Abort));
        Ok(Self { definition: definition.clone(), nodes, by_id, on_halt })
    }

    /// The definition.
    pub fn definition(&self) -> &Definition {
        &self.definition
    }
    /// How many nodes.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }
    /// Never: a plan has nodes.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }
    /// A node of the plan.
    pub fn node(&self, i: u32) -> &PlanNode {
        &self.nodes[i as usize]
    }
    /// Its definition.
    pub fn def(&self, i: u32) -> &NodeDef {
        &self.definition.nodes[i as usize]
    }
    /// The node of that id.
    pub fn find(&self, id: &str) -> Option<u32> {
        self.by_id.get(id).copied()
    }
    /// What a halt means for its executions: what the definition says, else `abort` where it has something
    /// that a halt refuses.
    pub fn on_halt(&self) -> Option<OnHalt> {
        self.on_halt
    }
    /// Where a node of an execution is, for the flags.
    pub fn place<'a>(&'a self, i: u32, c: &'a Correlation) -> Place<'a> {
        let node = self.node(i);
        Place {
            venue: &node.venue,
            node_type: &self.def(i).kind,
            effect: node.effect,
            allowed_while_halted: node.allowed_while_halted,
            on_halt: self.on_halt,
            ..Place::of(c)
        }
    }
    /// Milliseconds one attempt of a node may run.
    pub fn timeout_ms(&self, i: u32) -> u64 {
        self.def(i).timeout.map_or(NODE_TIMEOUT_MS_DEFAULT, |t| t.0)
    }
}

struct Check {
    problems: Vec<Problem>,
}

impl Check {
    fn add(&mut self, field: impl Into<String>, node: Option<&NodeDef>, message: String) {
        if self.problems.len() < PROBLEMS_MAX {
            let message = match node {
                Some(n) => format!("node `{}`: {message}", n.id),
                None => message,
            };
            self.problems.push(Problem { field: field.into(), message, node: node.map(|n| n.id.clone()) });
        }
    }

    fn head(&mut self, d: &Definition) {
        for (field, id) in [("id", &d.id), ("version", &d.version)] {
            if let Err(e) = check_id(id) {
                self.add(field, None, e);
            }
        }
        for (field, id) in [("bot_id", &d.bot_id), ("strategy_id", &d.strategy_id)] {
            if !id.is_empty()
                && let Err(e) = check_id(id)
            {
                self.add(field, None, e);
            }
        }
        for (field, text) in [("name", d.name.as_str()), ("description", &d.description)] {
            if text.len() > TEXT_BYTES_MAX {
                self.add(field, None, format!("has {} bytes, more than {TEXT_BYTES_MAX}", text.len()));
            }
        }
        if d.timeout.is_some_and(|t| t.0 == 0 || t.0 > EXECUTION_MS_MAX) {
            self.add("timeout", None, "must be more than 0 and at most 30d".into());
        }
    }

    fn node(&mut self, i: usize, n: &NodeDef, types: &HashMap<&str, &NodeType>) {
        let at = |field: &str| format!("nodes[{i}].{field}");
        if let Err(e) = check_id(&n.id) {
            self.add(at("id"), Some(n), e);
        }
        for (field, text) in [("name", &n.name), ("category", &n.category)] {
            if text.len() > TEXT_BYTES_MAX {
                self.add(at(field), Some(n), format!("{field} has {} bytes, more than {TEXT_BYTES_MAX}", text.len()));
            }
        }
        match types.get(n.kind.as_str()) {
            None => {
                let mut known: Vec<&str> = types.keys().copied().collect();
                known.sort_unstable();
                self.add(at("type"), Some(n), format!("unknown type `{}`; there are {}", n.kind, known.join(", ")));
            }
            Some(t) => {
                for name in &t.required {
                    if !n.inputs.contains_key(name) && n.params.get(name).is_none_or(serde_json::Value::is_null) {
                        self.add(at(&format!("params.{name}")), Some(n), format!("type `{}` needs `{name}` as input or parameter", n.kind));
                    }
                }
            }
        }
        if n.max_input_age.is_some_and(|age| age.0 == 0) {
            self.add(at("max_input_age"), Some(n), "max_input_age must be more than 0".into());
        }
        if !n.venue.is_empty()
            && let Err(e) = check_id(&n.venue)
        {
            self.add(at("venue"), Some(n), format!("venue {e}"));
        }
        if n.timeout.is_some_and(|t| t.0 == 0 || t.0 > NODE_TIMEOUT_MS_MAX) {
            self.add(at("timeout"), Some(n), "timeout must be more than 0 and at most 1d".into());
        }
        if let Some(r) = n.retry {
            if !(1..=ATTEMPTS_MAX).contains(&r.attempts) {
                self.add(at("retry.attempts"), Some(n), format!("attempts must be 1 to {ATTEMPTS_MAX}"));
            }
            if r.delay.0 > RETRY_DELAY_MS_MAX {
                self.add(at("retry.delay"), Some(n), "delay must be at most 60s".into());
            }
            if !(1.0..=10.0).contains(&r.factor) {
                self.add(at("retry.factor"), Some(n), "factor must be 1 to 10".into());
            }
        }
        if let OnError::Use(outputs) = &n.on_error
            && json::size(outputs) > OUTPUT_BYTES_MAX
        {
            let message = format!("on_error.use has {} bytes, more than the {OUTPUT_BYTES_MAX} a node may give", json::size(outputs));
            self.add(at("on_error.use"), Some(n), message);
        }
    }

    fn edges(&mut self, d: &Definition, by_id: &HashMap<SmolStr, u32>) -> Vec<PlanNode> {
        let mut nodes = vec![PlanNode::default(); d.nodes.len()];
        for (i, n) in d.nodes.iter().enumerate() {
            let mut deps = BTreeSet::new();
            for (name, input) in &n.inputs {
                let field = format!("nodes[{i}].inputs.{name}");
                match input {
                    InputRef::Node(r) if r.node == n.id => self.add(field, Some(n), format!("input `{name}` refers to the node itself")),
                    InputRef::Node(r) => match by_id.get(&r.node) {
                        Some(dep) => {
                            deps.insert(*dep);
                            self.stand_in(*dep, &d.nodes[*dep as usize], n, r);
                        }
                        None => self.add(field, Some(n), format!("input `{name}` refers to node `{}`, which does not exist", r.node)),
                    },
                    InputRef::Input(_) | InputRef::Value(_) => {}
                }
            }
            for (k, dep) in n.depends_on.iter().enumerate() {
                let field = format!("nodes[{i}].depends_on[{k}]");
                match by_id.get(dep.as_str()) {
                    Some(_) if *dep == n.id => self.add(field, Some(n), "depends on itself".into()),
                    Some(dep) => {
                        deps.insert(*dep);
                    }
                    None => self.add(field, Some(n), format!("depends on node `{dep}`, which does not exist")),
                }
            }
            for dep in &deps {
                nodes[*dep as usize].dependents.push(i as u32);
            }
            nodes[i].deps = deps.into_iter().collect();
        }
        nodes
    }

    /// What stands for a node's outputs must have the one that `n` needs: found now, not on the day on
    /// which the node fails.
    fn stand_in(&mut self, dep: u32, failing: &NodeDef, n: &NodeDef, needed: &NodeRef) {
        if let OnError::Use(outputs) = &failing.on_error
            && look_up_output(outputs, &needed.output).is_none()
        {
            let message = format!("on_error.use has no `{}`, which node `{}` needs", needed.output, n.id);
            self.add(format!("nodes[{dep}].on_error.use"), Some(failing), message);
        }
    }

    /// Kahn's algorithm: what cannot be ordered is on, or behind, a cycle; a cycle is then walked.
    fn cycle(&mut self, d: &Definition, nodes: &[PlanNode]) {
        let mut left: Vec<usize> = nodes.iter().map(|n| n.deps.len()).collect();
        let mut ready: Vec<usize> = (0..nodes.len()).filter(|i| left[*i] == 0).collect();
        let mut done = 0;
        while let Some(i) = ready.pop() {
            done += 1;
            for next in &nodes[i].dependents {
                let next = *next as usize;
                left[next] -= 1;
                if left[next] == 0 {
                    ready.push(next);
                }
            }
        }
        if done == nodes.len() {
            return;
        }
        // Walk backwards among what is left: every node there has a dependency that is left too.
        let Some(mut at) = (0..nodes.len()).find(|i| left[*i] > 0) else { return };
        let mut path: Vec<usize> = Vec::new();
        while !path.contains(&at) {
            path.push(at);
            match nodes[at].deps.iter().find(|dep| left[**dep as usize] > 0) {
                Some(dep) => at = *dep as usize,
                None => return,
            }
        }
        let start = path.iter().position(|i| *i == at).unwrap_or(0);
        let mut names: Vec<&str> = path[start..].iter().take(10).map(|i| d.nodes[*i].id.as_str()).collect();
        names.reverse();
        let text = format!("is part of a cycle: {} -> {}", names.join(" -> "), names[0]);
        self.add(format!("nodes[{at}]"), Some(&d.nodes[at]), text);
    }
}

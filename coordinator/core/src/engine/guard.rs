//! What the engine knows of the flags.

use std::sync::Arc;

use haltline_types::control::{Flag, Flags, Gate, Level, OnHalt, Place, Scope};

/// All flags, and whether they are certain now.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Guard {
    flags: Arc<Flags>,
    /// One of them keeps something from starting.
    stops: bool,
    doubt: Option<String>,
}

impl Default for Guard {
    fn default() -> Self {
        Self { flags: Arc::default(), stops: true, doubt: Some("the control flags have not been read yet".into()) }
    }
}

impl Guard {
    /// Flags as they were read, and why they cannot be trusted now, if they cannot.
    pub fn new(flags: impl Into<Arc<Flags>>, doubt: Option<String>) -> Self {
        let flags = flags.into();
        Self { stops: flags.stops(), flags, doubt }
    }

    /// One flag for everything that says this of everything.
    pub fn of(gate: Gate) -> Self {
        match gate {
            Gate::Open => Self::new(Flags::global(Flag { state: Level::Normal, ..Flag::unwritten(&Scope::Global) }), None),
            Gate::Halted(flag) => Self::new(Flags::global(flag), None),
            Gate::Unsure(why) => Self { doubt: Some(why), ..Self::default() },
        }
    }

    /// Whether something may start at `place` now.
    pub fn gate(&self, place: &Place) -> Gate {
        match (self.flags.gate(place), &self.doubt) {
            (Gate::Open, Some(doubt)) => Gate::Unsure(doubt.clone()),
            (gate, _) => gate,
        }
    }

    /// Whether a new execution may begin whose nodes are at `places`: not if one of them would be refused.
    pub fn admits<'a>(&self, mut places: impl Iterator<Item = Place<'a>>) -> Gate {
        if !self.stops {
            return self.gate(&Place::default());
        }
        // Whatever its definition says of what runs: nothing begins under a halt to wait for its end.
        let begins = |p: Place<'a>| self.gate(&Place { on_halt: p.on_halt.map(|_| OnHalt::Abort), ..p });
        places.find_map(|p| Some(begins(p)).filter(|gate| *gate != Gate::Open)).unwrap_or(Gate::Open)
    }

    /// Whether it is more than a wait for the flags to be read.
    pub fn is_sure(&self) -> bool {
        self.doubt.is_none()
    }
}

//! All flags together, and what they allow at a place: the gravest that applies wins.

use std::collections::HashMap;

use super::{Flag, Level, OnHalt, Scope};
use crate::{Effect, event::Correlation};

/// What a guard found.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Gate {
    /// The flags allow and were seen recently.
    Open,
    /// A flag refuses.
    Halted(Flag),
    /// Wait, nothing is counted as an attempt: the watch is lost or too old to trust, or the flag
    /// says hold.
    Unsure(String),
}

/// Where something is about to start: what it belongs to and what it does.
#[derive(Clone, Copy, Debug, Default)]
pub struct Place<'a> {
    /// The strategy; empty for none.
    pub strategy_id: &'a str,
    /// The bot; empty for none.
    pub bot_id: &'a str,
    /// The workflow.
    pub workflow_id: &'a str,
    /// The venue; empty for none.
    pub venue: &'a str,
    /// The node's type; empty for an execution as a whole.
    pub node_type: &'a str,
    /// What it does outside.
    pub effect: Effect,
    /// Marked as allowed while halted, as cancels are.
    pub allowed_while_halted: bool,
    /// What a halt means for its execution; `None` if the execution has nothing that a halt refuses.
    pub on_halt: Option<OnHalt>,
}

impl<'a> Place<'a> {
    /// An execution, without a node.
    pub fn of(c: &'a Correlation) -> Self {
        Self { strategy_id: &c.strategy_id, bot_id: &c.bot_id, workflow_id: &c.workflow_id, ..Self::default() }
    }

    /// Whether `level` keeps it from starting, not regarding [`Level::Hold`].
    pub fn is_refused(&self, level: Level) -> bool {
        match level {
            Level::Normal | Level::Alert | Level::Hold => false,
            Level::Reducing => self.effect == Effect::OpensRisk && !self.allowed_while_halted,
            // Of an execution that ends by a halt nothing more starts but what is to run then.
            Level::Halt => !self.allowed_while_halted && (self.effect.touches_risk() || self.on_halt.is_some()),
            Level::Shutdown => true,
        }
    }
}

/// The flags of all scopes, as a reader understood them.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Flags {
    /// Of everything; `None` while it has not been read.
    global: Option<Flag>,
    /// By kind, in the order of [`Scope::KINDS`], then by id: looked up without allocating.
    scoped: [HashMap<String, Flag>; 5],
}

impl Flags {
    /// With one flag for everything.
    pub fn global(flag: Flag) -> Self {
        let mut flags = Self::default();
        flags.set(Scope::Global, flag);
        flags
    }

    /// A scope's flag is this from now on.
    pub fn set(&mut self, scope: Scope, flag: Flag) {
        match kind_index(&scope) {
            None => self.global = Some(flag),
            Some(kind) => {
                self.scoped[kind].insert(scope.id().to_owned(), flag);
            }
        }
    }
    /// Nothing is known any more.
    pub fn clear(&mut self) {
        *self = Self::default();
    }
    /// A scope's flag, if it was read.
    pub fn get(&self, scope: &Scope) -> Option<&Flag> {
        match kind_index(scope) {
            None => self.global.as_ref(),
            Some(kind) => self.scoped[kind].get(scope.id()),
        }
    }
    /// Scopes and their flags, `global` first, then in the order of their kinds and ids.
    pub fn iter(&self) -> impl Iterator<Item = (Scope, &Flag)> {
        let scoped = Scope::KINDS.iter().zip(&self.scoped).flat_map(|(kind, flags)| {
            let mut all: Vec<_> = flags.iter().filter_map(|(id, flag)| Some((Scope::of(kind, id).ok()?, flag))).collect();
            all.sort_by(|a, b| a.0.cmp(&b.0));
            all
        });
        self.global.iter().map(|flag| (Scope::Global, flag)).chain(scoped)
    }
    /// Whether any of them keeps something from starting.
    pub fn stops(&self) -> bool {
        self.all().any(|flag| !flag.state.runs())
    }
    /// The highest revision among them.
    pub fn revision(&self) -> u64 {
        self.all().map(|flag| flag.revision).max().unwrap_or(0)
    }
    fn all(&self) -> impl Iterator<Item = &Flag> {
        self.global.iter().chain(self.scoped.iter().flat_map(HashMap::values))
    }

    /// The gravest flag that applies at `place`; `None` while the one for everything was not read.
    pub fn gravest(&self, place: &Place) -> Option<&Flag> {
        let mut gravest = self.global.as_ref()?;
        let ids = [place.strategy_id, place.bot_id, place.workflow_id, place.venue, place.node_type];
        for (flags, id) in self.scoped.iter().zip(ids) {
            if !flags.is_empty()
                && let Some(flag) = flags.get(id)
                && flag.state > gravest.state
            {
                gravest = flag;
            }
        }
        Some(gravest)
    }

    /// What the flags say at `place`, if they are certain. Some look-ups; no I/O.
    pub fn gate(&self, place: &Place) -> Gate {
        match self.gravest(place) {
            None => Gate::Unsure("the control flag has not been read yet".into()),
            Some(flag) if flag.state == Level::Hold => Gate::Unsure(flag.sentence()),
            Some(flag) if place.is_refused(flag.state) => match place.on_halt {
                Some(OnHalt::Hold) => Gate::Unsure(flag.sentence()),
                _ => Gate::Halted(flag.clone()),
            },
            Some(_) => Gate::Open,
        }
    }
}

/// Place of a scope's kind among those that have an id.
fn kind_index(scope: &Scope) -> Option<usize> {
    Scope::KINDS.iter().position(|k| *k == scope.kind())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn flag(state: Level) -> Flag {
        Flag { state, reason: "r".into(), by: "b".into(), revision: 1, ..Flag::default() }
    }

    #[test]
    fn the_gravest_scope_wins() {
        let place = Place { bot_id: "b1", venue: "v", effect: Effect::OpensRisk, ..Place::default() };
        let mut flags = Flags::default();
        assert!(matches!(flags.gate(&place), Gate::Unsure(_)), "nothing was read");
        flags.set(Scope::Bot("b1".into()), flag(Level::Normal));
        assert!(matches!(flags.gate(&place), Gate::Unsure(_)), "the flag of everything was not read");
        flags.set(Scope::Global, flag(Level::Normal));
        assert_eq!(flags.gate(&place), Gate::Open);
        flags.set(Scope::Bot("b2".into()), flag(Level::Shutdown));
        assert_eq!(flags.gate(&place), Gate::Open);
        flags.set(Scope::Venue("v".into()), flag(Level::Reducing));
        assert!(matches!(flags.gate(&place), Gate::Halted(f) if f.state == Level::Reducing));
        flags.set(Scope::Bot("b1".into()), flag(Level::Halt));
        assert!(matches!(flags.gate(&place), Gate::Halted(f) if f.state == Level::Halt));
        flags.set(Scope::Global, flag(Level::Shutdown));
        assert!(matches!(flags.gate(&place), Gate::Halted(f) if f.state == Level::Shutdown));
    }

    #[test]
    fn levels_refuse_what_they_say() {
        use Effect::{Neutral, Observes, OpensRisk, ReducesRisk};
        let refused = |level, effect, allowed, on_halt| {
            Place { effect, allowed_while_halted: allowed, on_halt, ..Place::default() }.is_refused(level)
        };
        for effect in [OpensRisk, ReducesRisk, Neutral, Observes] {
            for level in [Level::Normal, Level::Alert] {
                assert!(!refused(level, effect, false, Some(OnHalt::Abort)), "{level} {effect:?}");
            }
            assert_eq!(refused(Level::Reducing, effect, false, None), effect == OpensRisk);
            assert_eq!(refused(Level::Halt, effect, false, None), effect.touches_risk());
            assert!(refused(Level::Halt, effect, false, Some(OnHalt::Abort)), "{effect:?}");
            assert!(!refused(Level::Halt, effect, true, Some(OnHalt::Abort)), "{effect:?}");
            assert!(refused(Level::Shutdown, effect, true, None), "{effect:?}");
        }
    }

    #[test]
    fn what_holds_waits_instead_of_ending() {
        let mut place = Place { effect: Effect::OpensRisk, on_halt: Some(OnHalt::Hold), ..Place::default() };
        let flags = Flags::global(flag(Level::Halt));
        assert!(matches!(flags.gate(&place), Gate::Unsure(_)));
        place.on_halt = Some(OnHalt::Abort);
        assert!(matches!(flags.gate(&place), Gate::Halted(_)));
        assert!(matches!(Flags::global(flag(Level::Hold)).gate(&place), Gate::Unsure(_)));
    }
}

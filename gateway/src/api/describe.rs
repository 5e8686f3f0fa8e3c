//! Reading a handler's signature: what its arguments ask for, what it answers.

use axum::extract::{Path, State};
use schemars::SchemaGenerator;

use super::document::Operation;
use crate::{app::App, problem::Problem};

/// An argument of a handler, as the document shows it.
pub(crate) trait Input {
    /// Adds what it asks for.
    fn describe(_: &mut Operation, _: &mut SchemaGenerator) {}
}

/// A handler's answer.
pub(crate) trait Output {
    /// Says what a good answer has.
    fn describe(operation: &mut Operation, schemas: &mut SchemaGenerator);
}

impl Input for State<App> {}
/// Its names are in the address.
impl<T> Input for Path<T> {}

impl<T: Output> Output for Result<T, Problem> {
    fn describe(operation: &mut Operation, schemas: &mut SchemaGenerator) {
        T::describe(operation, schemas);
    }
}

/// A function whose signature can be read; `D` is the list of its arguments.
pub(crate) trait Described<D> {
    /// Adds all of it.
    fn describe(operation: &mut Operation, schemas: &mut SchemaGenerator);
}

macro_rules! described {
    ($($argument:ident)*) => {
        impl<F, Answer, O, $($argument),*> Described<($($argument,)*)> for F
        where
            F: Fn($($argument),*) -> Answer,
            Answer: Future<Output = O>,
            O: Output,
            $($argument: Input),*
        {
            fn describe(operation: &mut Operation, schemas: &mut SchemaGenerator) {
                $($argument::describe(operation, schemas);)*
                O::describe(operation, schemas);
            }
        }
    };
}

described!();
described!(A);
described!(A B);
described!(A B C);
described!(A B C E);
described!(A B C E G);
described!(A B C E G H);

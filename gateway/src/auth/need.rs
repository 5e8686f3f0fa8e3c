//! What a route asks of who calls it.

use super::Role;

/// Said where the route is added.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Need {
    /// Anyone, also without a token: probes, the page that asks for one.
    Nothing,
    /// The handler asks by itself: a socket may say its token in its first frame.
    Itself,
    /// At least this role.
    Role(Role),
}

impl Need {
    /// Looking.
    pub const VIEWER: Self = Self::Role(Role::Viewer);
    /// Acting.
    pub const OPERATOR: Self = Self::Role(Role::Operator);
    /// Allowing.
    pub const ADMIN: Self = Self::Role(Role::Admin);

    /// As the document says it.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Nothing => "nothing",
            Self::Itself => "itself",
            Self::Role(role) => role.as_str(),
        }
    }
}

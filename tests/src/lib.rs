//! What the tests share: a site (nats-server, services and the market as real processes on a folder
//! of their own), callers of the command line and of HTTP, workflows, and checks of what is left.

pub mod caller;
pub mod checks;
pub mod folder;
pub mod http;
pub mod ledger;
pub mod nats;
pub mod process;
pub mod relay;
pub mod shapes;
pub mod site;
pub mod until;
pub mod venue;

pub use caller::{Caller, Told};
pub use haltline_server::port;
pub use relay::Relay;
pub use site::Site;
pub use until::{soon, until};

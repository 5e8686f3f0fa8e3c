//! JSON Web Tokens: signed by someone else's key, with the algorithms that the settings name and no
//! others. The cryptography is ring's, which the rest of Haltline uses already.

use std::{
    path::{Path, PathBuf},
    sync::{PoisonError, RwLock},
    time::{Duration, Instant, SystemTime},
};

use haltline_common::{
    config::JwtSettings,
    types::access::{Role, Scopes},
};
use jsonwebtoken::{
    Algorithm, DecodingKey, DecodingKeyKind, Validation,
    crypto::{CryptoProvider, JwtSigner, JwtVerifier, KeyUtils},
    decode, decode_header,
    errors::{Error, ErrorKind},
    jwk::{Jwk, JwkSet, KeyAlgorithm},
};
use ring::{hmac, signature};
use serde::Deserialize;

use super::{Denied, Principal};

/// Clocks may differ by this.
const LEEWAY_S: u64 = 30;
/// How often the file of keys is looked at: a key that is new there counts by then.
const LOOK: Duration = Duration::from_secs(10);
/// Bytes of a token: more is no token of anyone's.
const BYTES_MAX: usize = 8 * 1024;

/// What a token has to say.
#[derive(Deserialize)]
struct Claims {
    sub: String,
    exp: u64,
    #[serde(default)]
    jti: Option<String>,
    #[serde(rename = "haltline_role")]
    role: Role,
    #[serde(rename = "haltline_scopes", default, deserialize_with = "haltline_common::types::json::object")]
    scopes: Scopes,
}

/// Keys, and what is asked of tokens.
pub(super) struct Jwt {
    validation: Validation,
    algorithms: Vec<Algorithm>,
    secret: Option<DecodingKey>,
    jwks: Option<PathBuf>,
    keys: RwLock<Keys>,
}

#[derive(Default)]
struct Keys {
    set: Vec<Jwk>,
    looked: Option<Instant>,
    modified: Option<SystemTime>,
}

impl Jwt {
    /// From the settings; `None` if they name no key.
    ///
    /// # Errors
    /// When what they name cannot be used.
    pub fn open(settings: &JwtSettings) -> Result<Option<Self>, String> {
        if settings.jwks.is_empty() && settings.secret_file.is_empty() {
            return Ok(None);
        }
        // Fails only if one is installed already, which is as good: there is only this one.
        let _ = PROVIDER.install_default();
        let algorithms = settings.algorithms.iter().map(|a| algorithm(a)).collect::<Result<Vec<_>, _>>()?;
        let Some(first) = algorithms.first() else { return Err("gateway.jwt.algorithms: name those that are used".into()) };
        let mut validation = Validation::new(*first);
        validation.leeway = LEEWAY_S;
        validation.validate_nbf = true;
        validation.set_audience(&[&settings.audience]);
        validation.set_issuer(&[&settings.issuer]);
        validation.set_required_spec_claims(&["exp", "aud", "iss", "sub"]);
        let secret = match settings.secret_file.as_str() {
            "" => None,
            path => {
                let bytes = std::fs::read(path).map_err(|e| format!("gateway.jwt.secret_file: {path}: {e}"))?;
                let secret = bytes.trim_ascii();
                if secret.len() < 32 {
                    return Err("gateway.jwt.secret_file: has less than 32 bytes".into());
                }
                Some(DecodingKey::from_secret(secret))
            }
        };
        let jwks = (!settings.jwks.is_empty()).then(|| PathBuf::from(&settings.jwks));
        let jwt = Self { validation, algorithms, secret, jwks, keys: RwLock::default() };
        if let Some(path) = &jwt.jwks {
            let keys = read(path).map_err(|e| format!("gateway.jwt.jwks: {}: {e}", path.display()))?;
            *jwt.keys.write().unwrap_or_else(PoisonError::into_inner) = keys;
        }
        Ok(Some(jwt))
    }

    /// Whose token this is.
    pub fn verify(&self, token: &str) -> Result<Principal, Denied> {
        let denied = |why: &str| Denied::Invalid(format!("the token {why}"));
        if token.len() > BYTES_MAX {
            return Err(denied("is too long"));
        }
        let header = decode_header(token).map_err(|_| denied("cannot be read"))?;
        if !self.algorithms.contains(&header.alg) {
            return Err(denied("is signed by an algorithm that is not admitted"));
        }
        let key = match (header.alg, &self.secret) {
            (Algorithm::HS256, Some(secret)) => secret.clone(),
            // A public key must never serve as the secret of another algorithm.
            (Algorithm::HS256, None) => return Err(denied("is signed by an algorithm that is not admitted")),
            (alg, _) => self.key(header.kid.as_deref(), alg).ok_or_else(|| denied("names a key that is not known"))?,
        };
        let validation = Validation { algorithms: vec![header.alg], ..self.validation.clone() };
        let claims: Claims = decode(token, &key, &validation).map_err(|e| denied(&why(&e)))?.claims;
        Ok(Principal {
            name: claims.sub,
            role: claims.role,
            scopes: claims.scopes,
            until: SystemTime::UNIX_EPOCH.checked_add(Duration::from_secs(claims.exp.saturating_add(LEEWAY_S))),
            credential: Some(format!("jwt:{}", claims.jti.unwrap_or_default())),
        })
    }

    /// The key by its id; without one, the only key of that kind.
    fn key(&self, kid: Option<&str>, alg: Algorithm) -> Option<DecodingKey> {
        self.refresh();
        let keys = self.keys.read().unwrap_or_else(PoisonError::into_inner);
        let fits = |k: &&Jwk| {
            let family = DecodingKey::from_jwk(k).is_ok_and(|d| d.family() == alg.family());
            family
                && k.common
                    .key_algorithm
                    .is_none_or(|a| matches!((a, alg), (KeyAlgorithm::RS256, Algorithm::RS256) | (KeyAlgorithm::EdDSA, Algorithm::EdDSA)))
        };
        let found: Vec<&Jwk> = match kid {
            Some(kid) => keys.set.iter().filter(|k| k.common.key_id.as_deref() == Some(kid)).filter(fits).collect(),
            None => keys.set.iter().filter(fits).collect(),
        };
        match found.as_slice() {
            [one] => DecodingKey::from_jwk(one).ok(),
            _ => None,
        }
    }

    /// Reads the file again if it has changed. One that cannot be read leaves the keys as they were: a
    /// key is withdrawn by a file without it.
    fn refresh(&self) {
        let Some(path) = &self.jwks else { return };
        let mut keys = self.keys.write().unwrap_or_else(PoisonError::into_inner);
        if keys.looked.is_some_and(|at| at.elapsed() < LOOK) {
            return;
        }
        keys.looked = Some(Instant::now());
        let modified = std::fs::metadata(path).and_then(|m| m.modified()).ok();
        if modified == keys.modified && modified.is_some() {
            return;
        }
        match read(path) {
            Ok(new) => *keys = new,
            Err(error) => tracing::error!(path = %path.display(), error, "the keys cannot be read again; those of before stay"),
        }
    }
}

fn read(path: &Path) -> Result<Keys, String> {
    let modified = std::fs::metadata(path).and_then(|m| m.modified()).map_err(|e| e.to_string())?;
    let text = std::fs::read(path).map_err(|e| e.to_string())?;
    let set: JwkSet = serde_json::from_slice(&text).map_err(|e| e.to_string())?;
    Ok(Keys { set: set.keys, looked: Some(Instant::now()), modified: Some(modified) })
}

fn algorithm(name: &str) -> Result<Algorithm, String> {
    match name {
        "HS256" => Ok(Algorithm::HS256),
        "RS256" => Ok(Algorithm::RS256),
        "EdDSA" => Ok(Algorithm::EdDSA),
        _ => Err(format!("gateway.jwt.algorithms: `{name}` is none of HS256, RS256, EdDSA")),
    }
}

fn why(e: &Error) -> String {
    match e.kind() {
        ErrorKind::ExpiredSignature => "has expired".into(),
        ErrorKind::ImmatureSignature => "is not valid yet".into(),
        ErrorKind::InvalidAudience => "is for another audience".into(),
        ErrorKind::InvalidIssuer => "is of another issuer".into(),
        ErrorKind::MissingRequiredClaim(claim) => format!("lacks the claim `{claim}`"),
        ErrorKind::Json(e) => format!("has claims that cannot be used: {e}"),
        _ => "has no good signature".into(),
    }
}

/// Verifies only: nothing here has a private key.
static PROVIDER: CryptoProvider = CryptoProvider { signer_factory, verifier_factory, key_utils: KeyUtils::new_unimplemented() };

fn signer_factory(_: &Algorithm, _: &jsonwebtoken::EncodingKey) -> Result<Box<dyn JwtSigner>, Error> {
    Err(ErrorKind::UnsupportedAlgorithm.into())
}

fn verifier_factory(algorithm: &Algorithm, key: &DecodingKey) -> Result<Box<dyn JwtVerifier>, Error> {
    if key.family() != algorithm.family() || !matches!(algorithm, Algorithm::HS256 | Algorithm::RS256 | Algorithm::EdDSA) {
        return Err(ErrorKind::UnsupportedAlgorithm.into());
    }
    Ok(Box::new(Verifier { algorithm: *algorithm, key: key.kind().clone() }))
}

struct Verifier {
    algorithm: Algorithm,
    key: DecodingKeyKind,
}

impl ::signature::Verifier<Vec<u8>> for Verifier {
    fn verify(&self, message: &[u8], signed: &Vec<u8>) -> Result<(), ::signature::Error> {
        let good = match (self.algorithm, &self.key) {
            (Algorithm::HS256, DecodingKeyKind::SecretOrDer(secret)) => {
                hmac::verify(&hmac::Key::new(hmac::HMAC_SHA256, secret), message, signed).is_ok()
            }
            (Algorithm::EdDSA, DecodingKeyKind::SecretOrDer(key)) => {
                signature::UnparsedPublicKey::new(&signature::ED25519, key).verify(message, signed).is_ok()
            }
            (Algorithm::RS256, DecodingKeyKind::RsaModulusExponent { n, e }) => {
                let key = signature::RsaPublicKeyComponents { n, e };
                key.verify(&signature::RSA_PKCS1_2048_8192_SHA256, message, signed).is_ok()
            }
            _ => false,
        };
        if good { Ok(()) } else { Err(::signature::Error::new()) }
    }
}

impl JwtVerifier for Verifier {
    fn algorithm(&self) -> Algorithm {
        self.algorithm
    }
}

#[cfg(test)]
#[path = "jwt_tests.rs"]
mod tests;

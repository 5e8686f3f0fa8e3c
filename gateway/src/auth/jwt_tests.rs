//! Tokens that must and must not let anyone in.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD as B64};
use ring::{
    rand::SystemRandom,
    signature::{Ed25519KeyPair, KeyPair},
};
use serde_json::{Value, json};

use super::*;

/// RFC 7515, appendix A.2: a public key and a token that it signed, which expired in 2011.
const RFC_N: &str = "ofgWCuLjybRlzo0tZWJjNiuSfb4p4fAkd_wWJcyQoTbji9k0l8W26mPddxHmfHQp-Vaw-4qPCJrcS2mJPMEzP1Pt0Bm4d4QlL-yRT-SFd2lZS-pCgNMsD1W_YpRPEwOWvG6b32690r2jZ47soMZo9wGzjb_7OMg0LOL-bSf63kpaSHSXndS5z5rexMdbBYUsLA9e-KXBdQOS-UTo7WTBEMa2R2CapHg665xsmtdVMTBQY4uDZlxvb3qCo5ZwKh9kG4LT6_I5IhlJH7aGhyxXFvUK-DWNmoudF8NAco9_h9iaGNj8q2ethFkMLs91kzk2PAcDTW9gb54h4FRWyuXpoQ";
const RFC_TOKEN: &str = "eyJhbGciOiJSUzI1NiJ9.eyJpc3MiOiJqb2UiLA0KICJleHAiOjEzMDA4MTkzODAsDQogImh0dHA6Ly9leGFtcGxlLmNvbS9pc19yb290Ijp0cnVlfQ.cC4hiUPoj9Eetdgtv3hF80EGrhuB__dzERat0XF9g2VtQgr9PJbu3XOiZj5RZmh7AAuHIm4Bh-0Qc_lF5YKt_O8W2Fp5jujGbds9uJdbF9CUAr7t1dnZcAcQjbKBYNX4BAynRFdiuB--f_nZLgrnbyTyWzO75vRK5h6xBArLIARNPvkSjtQBMHlb1L07Qe7K0GarZRmB_eSN9383LcOLn6_dO--xi12jzDwusC-eOkHWEsqtFZESc6BfI7noOPqvhJ1phCnvWh6IeYI2w9QOYEUipUTI8np6LbgGY9Fs98rqVt5AXLIhWkWywlVmtVrBp0igcN_IoypGlUPQGe77Rw";
const SECRET: &str = "0123456789abcdef0123456789abcdef";

struct Fixture {
    folder: PathBuf,
    pair: Ed25519KeyPair,
}

impl Drop for Fixture {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.folder);
    }
}

impl Fixture {
    fn new() -> Self {
        let folder = std::env::temp_dir().join(format!("haltline-jwt-{}", uuid::Uuid::new_v4()));
        std::fs::create_dir_all(&folder).expect("a folder");
        let document = Ed25519KeyPair::generate_pkcs8(&SystemRandom::new()).expect("a key");
        let fixture = Self { folder, pair: Ed25519KeyPair::from_pkcs8(document.as_ref()).expect("a key") };
        fixture.keys(&[fixture.own("k1"), json!({ "kty": "RSA", "kid": "rfc", "alg": "RS256", "n": RFC_N, "e": "AQAB" })]);
        std::fs::write(fixture.folder.join("secret"), SECRET).expect("written");
        fixture
    }
    fn own(&self, kid: &str) -> Value {
        json!({ "kty": "OKP", "crv": "Ed25519", "kid": kid, "alg": "EdDSA", "x": B64.encode(self.pair.public_key().as_ref()) })
    }
    fn keys(&self, keys: &[Value]) {
        std::fs::write(self.folder.join("jwks.json"), json!({ "keys": keys }).to_string()).expect("written");
    }
    fn open(&self, algorithms: &[&str], secret: bool) -> Jwt {
        let path = |name: &str| self.folder.join(name).to_string_lossy().into_owned();
        let settings = JwtSettings {
            jwks: path("jwks.json"),
            secret_file: if secret { path("secret") } else { String::new() },
            algorithms: algorithms.iter().map(|a| (*a).to_owned()).collect(),
            issuer: "joe".into(),
            audience: "haltline".into(),
        };
        Jwt::open(&settings).expect("settings").expect("keys")
    }
    fn signed(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", B64.encode(header.to_string()), B64.encode(claims.to_string()));
        let signature = match header["alg"].as_str() {
            Some("EdDSA") => self.pair.sign(message.as_bytes()).as_ref().to_vec(),
            Some("HS256") => {
                // As an attacker does who has the public key only, if `kid` says so.
                let key = if header["kid"] == "k1" { self.pair.public_key().as_ref().to_vec() } else { SECRET.into() };
                hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, &key), message.as_bytes()).as_ref().to_vec()
            }
            _ => Vec::new(),
        };
        format!("{message}.{}", B64.encode(signature))
    }
}

fn in_s(s: i64) -> i64 {
    haltline_common::clock::now().0 / 1000 + s
}

fn claims() -> Value {
    json!({ "sub": "ann", "iss": "joe", "aud": "haltline", "exp": in_s(600), "haltline_role": "operator", "haltline_scopes": { "bots": ["b1"] } })
}

fn with(changes: Value) -> Value {
    let mut all = claims();
    for (name, value) in changes.as_object().expect("an object") {
        if value.is_null() {
            all.as_object_mut().expect("an object").remove(name);
        } else {
            all[name] = value.clone();
        }
    }
    all
}

#[test]
fn good_tokens_say_who_and_what() {
    let f = Fixture::new();
    let eddsa = json!({ "alg": "EdDSA", "kid": "k1" });
    let p = f.open(&["EdDSA", "RS256"], false).verify(&f.signed(&eddsa, &claims())).expect("let in");
    assert_eq!((p.name.as_str(), p.role, p.scopes.bots), ("ann", Role::Operator, vec!["b1".to_owned()]));
    assert!(p.until.is_some() && p.credential.is_some());
    let hs = f.open(&["HS256"], true).verify(&f.signed(&json!({ "alg": "HS256" }), &claims())).expect("let in");
    assert_eq!(hs.name, "ann");
    let many = with(json!({ "aud": ["other", "haltline"] }));
    assert!(f.open(&["EdDSA"], false).verify(&f.signed(&eddsa, &many)).is_ok());
}

#[test]
fn rsa_is_verified() {
    let jwt = Fixture::new();
    let open = jwt.open(&["RS256"], false);
    let told = |token: &str| open.verify(token).expect_err("refused").to_string();
    // A good signature of something that is over is told apart from a bad one.
    let over = told(RFC_TOKEN);
    assert!(over.contains("expired") || over.contains("claim"), "{over}");
    let bad = told(&RFC_TOKEN.replace("cC4hiUPoj9", "cC4hiUPoj8"));
    assert!(bad.contains("signature"), "{bad}");
}

#[test]
fn what_is_wrong_lets_nobody_in() {
    let f = Fixture::new();
    let jwt = f.open(&["EdDSA"], false);
    let eddsa = json!({ "alg": "EdDSA", "kid": "k1" });
    for (changes, word) in [
        (json!({ "exp": in_s(-60) }), "expired"),
        (json!({ "exp": null }), "exp"),
        (json!({ "exp": "never" }), "claim"),
        (json!({ "nbf": in_s(600) }), "not valid yet"),
        (json!({ "aud": "other" }), "audience"),
        (json!({ "aud": null }), "aud"),
        (json!({ "iss": "mallory" }), "issuer"),
        (json!({ "iss": null }), "iss"),
        (json!({ "sub": null }), "sub"),
        (json!({ "haltline_role": null }), "haltline_role"),
        (json!({ "haltline_role": "root" }), "root"),
        (json!({ "haltline_scopes": { "bot": ["b"] } }), "bot"),
    ] {
        let told = jwt.verify(&f.signed(&eddsa, &with(changes.clone()))).expect_err(&changes.to_string()).to_string();
        assert!(told.contains(word), "{changes}: {told}");
    }
    let good = f.signed(&eddsa, &claims());
    let (message, _) = good.rsplit_once('.').expect("three parts");
    let none = f.signed(&json!({ "alg": "none" }), &claims());
    for bad in [
        String::new(),
        "a.b.c".into(),
        format!("{message}."),
        good.replacen('.', ".x", 1),
        none,
        f.signed(&json!({ "alg": "EdDSA", "kid": "other" }), &claims()),
        // The public key as a secret; and an algorithm with a key of its own that is not admitted.
        f.signed(&json!({ "alg": "HS256", "kid": "k1" }), &claims()),
        f.signed(&json!({ "alg": "HS256" }), &claims()),
        "x".repeat(100_000),
    ] {
        assert!(matches!(jwt.verify(&bad), Err(Denied::Invalid(_))), "{bad}");
    }
    assert!(f.open(&["EdDSA", "HS256"], false).verify(&f.signed(&json!({ "alg": "HS256", "kid": "k1" }), &claims())).is_err());
}

#[test]
fn keys_rotate_with_their_file() {
    let f = Fixture::new();
    let jwt = f.open(&["EdDSA"], false);
    let old = f.signed(&json!({ "alg": "EdDSA", "kid": "k1" }), &claims());
    let new = f.signed(&json!({ "alg": "EdDSA", "kid": "k2" }), &claims());
    assert!(jwt.verify(&old).is_ok() && jwt.verify(&new).is_err());
    f.keys(&[f.own("k2")]);
    let later = |jwt: &Jwt| {
        let mut keys = jwt.keys.write().expect("whole");
        // As if it were a while ago, and the file's time had a step.
        (keys.looked, keys.modified) = (None, None);
    };
    later(&jwt);
    assert!(jwt.verify(&old).is_err() && jwt.verify(&new).is_ok());
    std::fs::write(f.folder.join("jwks.json"), "{").expect("written");
    later(&jwt);
    assert!(jwt.verify(&new).is_ok(), "a file that cannot be read withdraws nothing");
}

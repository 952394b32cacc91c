//! Amazon's side of a registry password: it believes only a request that is signed with its key, as it arrived.

use std::io::Write;
use std::net::TcpStream;
use std::sync::Arc;

use base64::Engine;
use hmac::{Hmac, Mac};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};

use super::http::{Request, Serving};

pub const KEY_ID: &str = "AKIATEST";
pub const SECRET_KEY: &str = "a secret/key+of Amazon's";
pub const SESSION: &str = "a session";

pub struct FakeEcr {
    serving: Serving,
    refusals: Arc<Mutex<Vec<String>>>,
}

impl FakeEcr {
    /// Gives `user:password` to whom has the key.
    pub fn start(user: &str, password: &str) -> Self {
        let token = base64::engine::general_purpose::STANDARD.encode(format!("{user}:{password}"));
        let refusals = Arc::new(Mutex::new(Vec::new()));
        let kept = refusals.clone();
        Self { serving: Serving::start(move |stream, request| answer(stream, &request, &token, &kept)), refusals }
    }

    pub fn url(&self) -> String {
        self.serving.url()
    }

    /// Why requests were refused.
    pub fn refusals(&self) -> Vec<String> {
        self.refusals.lock().clone()
    }
}

fn answer(
    stream: &mut TcpStream,
    request: &Request,
    token: &str,
    refusals: &Mutex<Vec<String>>,
) -> std::io::Result<()> {
    let (status, text) = match check(request) {
        Ok(()) => ("200 OK", serde_json::json!({ "authorizationData": [{ "authorizationToken": token }] })),
        Err(why) => {
            refusals.lock().push(why.clone());
            ("400 Bad Request", serde_json::json!({ "__type": "InvalidSignatureException", "message": why }))
        }
    };
    let text = text.to_string();
    let head = format!("HTTP/1.1 {status}\r\nConnection: close\r\nContent-Length: {}\r\n\r\n", text.len());
    stream.write_all((head + &text).as_bytes())
}

/// The signature once more, from what came over the wire.
fn check(request: &Request) -> Result<(), String> {
    let Request { method, path, headers, body } = request;
    let header = |name: &str| headers.get(name).cloned().ok_or_else(|| format!("no header `{name}`"));
    let is_call = method == "POST" && path == "/";
    if !is_call || !header("x-amz-target")?.ends_with(".GetAuthorizationToken") {
        return Err(format!("unknown operation `{method} {path}`"));
    }
    if header("content-type")? != "application/x-amz-json-1.1" || body != b"{}" {
        return Err("a body of another kind".to_owned());
    }
    let authorization = header("authorization")?;
    let part = |name: &str| {
        let (_, rest) = authorization.split_once(&format!("{name}=")).ok_or_else(|| format!("no `{name}`"))?;
        Ok::<_, String>(rest.split(',').next().unwrap_or_default().to_owned())
    };
    let (credential, signed, signature) = (part("Credential")?, part("SignedHeaders")?, part("Signature")?);
    for name in ["host", "x-amz-date", "x-amz-target"] {
        if !signed.split(';').any(|found| found == name) {
            return Err(format!("`{name}` is not signed"));
        }
    }
    if headers.get("x-amz-security-token").is_some_and(|token| token != SESSION) {
        return Err("the security token is not valid".to_owned());
    }
    let scope: Vec<&str> = credential.split('/').collect();
    let [KEY_ID, day, region @ "eu-test-1", "ecr", "aws4_request"] = scope[..] else {
        return Err(format!("unknown credential `{credential}`"));
    };
    let mut canonical = "POST\n/\n\n".to_owned();
    for name in signed.split(';') {
        canonical.push_str(&format!("{name}:{}\n", header(name)?));
    }
    canonical.push_str(&format!("\n{signed}\n{}", hex::encode(Sha256::digest(body))));
    let to_sign = format!(
        "AWS4-HMAC-SHA256\n{}\n{day}/{region}/ecr/aws4_request\n{}",
        header("x-amz-date")?,
        hex::encode(Sha256::digest(canonical))
    );
    let mac = |key: &[u8], text: &str| {
        let mut mac = Hmac::<Sha256>::new_from_slice(key).unwrap();
        mac.update(text.as_bytes());
        mac.finalize().into_bytes().to_vec()
    };
    let mut key = mac(format!("AWS4{SECRET_KEY}").as_bytes(), day);
    for step in [region, "ecr", "aws4_request"] {
        key = mac(&key, step);
    }
    if hex::encode(mac(&key, &to_sign)) != signature {
        return Err("the signature does not match".to_owned());
    }
    Ok(())
}

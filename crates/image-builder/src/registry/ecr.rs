//! Amazon's container registry gives a password for an access key: one request, signed with Amazon's Signature Version 4.
//!
//! A client of theirs would bring a few hundred crates for this one call.

use std::time::{SystemTime, UNIX_EPOCH};

use base64::Engine;
use hmac::{Hmac, Mac};
use reqwest::StatusCode;
use serde::Deserialize;
use sha2::{Digest, Sha256};
use types::errors::with_causes;

use super::config::Credentials;
use super::credentials::AwsKeys;

const TARGET: &str = "AmazonEC2ContainerRegistry_V20150921.GetAuthorizationToken";
const CONTENT_TYPE: &str = "application/x-amz-json-1.1";
const BODY: &str = "{}";

#[derive(Debug, thiserror::Error)]
pub(crate) enum EcrError {
    #[error("`{url}` is not a URL")]
    Url { url: String },
    #[error("`{host}` cannot be reached: {reason}")]
    Unreachable { host: String, reason: String },
    #[error("`{host}` gives no registry password for access key `{key}`: {reason}")]
    Refused { host: String, key: String, reason: String },
}

/// The registry's user and password. `endpoint`: instead of Amazon's own.
pub(crate) async fn login(
    http: &reqwest::Client,
    keys: &AwsKeys,
    endpoint: Option<&str>,
) -> Result<Credentials, EcrError> {
    let url = endpoint.map_or_else(|| own_endpoint(&keys.region), |url| format!("{}/", url.trim_end_matches('/')));
    let parsed = reqwest::Url::parse(&url).ok();
    let host = parsed.as_ref().and_then(|url| {
        let host = url.host_str()?;
        Some(url.port().map_or_else(|| host.to_owned(), |port| format!("{host}:{port}")))
    });
    let (Some(parsed), Some(host)) = (parsed, host) else { return Err(EcrError::Url { url }) };
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |elapsed| elapsed.as_secs());
    let time = timestamp(now);
    let mut headers =
        vec![("content-type", CONTENT_TYPE), ("host", host.as_str()), ("x-amz-date", &time), ("x-amz-target", TARGET)];
    headers.extend(keys.session_token.as_deref().map(|token| ("x-amz-security-token", token)));
    headers.sort_unstable();
    let scope = Scope { region: &keys.region, service: "ecr", time: &time };
    let authorization = authorization(keys, &scope, "POST", parsed.path(), &headers, BODY);
    let mut ask = http.post(parsed.clone()).body(BODY).timeout(std::time::Duration::from_secs(30));
    // The connection itself writes the host.
    for (name, value) in headers.into_iter().filter(|(name, _)| *name != "host") {
        ask = ask.header(name, value);
    }
    let unreachable = |error: reqwest::Error| EcrError::Unreachable { host: host.clone(), reason: with_causes(&error) };
    let answer = ask.header("authorization", authorization).send().await.map_err(unreachable)?;
    let status = answer.status();
    let body = answer.bytes().await.map_err(unreachable)?;
    let refused = |reason: String| EcrError::Refused { host: host.clone(), key: keys.access_key_id.clone(), reason };
    if !status.is_success() {
        return Err(refused(reason_of(status, &body)));
    }
    password_of(&body).ok_or_else(|| refused("its answer holds no password".to_owned()))
}

fn own_endpoint(region: &str) -> String {
    let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    format!("https://api.ecr.{region}.{domain}/")
}

/// What Amazon says about a refusal: the error's name and a sentence.
fn reason_of(status: StatusCode, body: &[u8]) -> String {
    #[derive(Deserialize)]
    struct Refusal {
        #[serde(rename = "__type", default)]
        kind: String,
        #[serde(alias = "Message", default)]
        message: String,
    }
    match serde_json::from_slice::<Refusal>(body) {
        Ok(Refusal { kind, message }) if !message.is_empty() => format!("{message} (`{kind}`)"),
        Ok(Refusal { kind, .. }) if !kind.is_empty() => format!("`{kind}`"),
        _ => format!("it answered `{status}`"),
    }
}

/// `user:password` in base 64.
fn password_of(body: &[u8]) -> Option<Credentials> {
    #[derive(Deserialize)]
    struct Answer {
        #[serde(rename = "authorizationData")]
        data: Vec<Data>,
    }
    #[derive(Deserialize)]
    struct Data {
        #[serde(rename = "authorizationToken")]
        token: String,
    }
    let answer: Answer = serde_json::from_slice(body).ok()?;
    let pair = base64::engine::general_purpose::STANDARD.decode(&answer.data.first()?.token).ok()?;
    let pair = String::from_utf8(pair).ok()?;
    let (user, password) = pair.split_once(':')?;
    Some(Credentials { user: user.to_owned(), password: password.to_owned() })
}

/// What a signature is good for.
struct Scope<'a> {
    region: &'a str,
    service: &'a str,
    /// As [`timestamp`] writes it.
    time: &'a str,
}

/// The value of `Authorization`. `headers`: sorted by their names, which are in lower case.
fn authorization(
    keys: &AwsKeys,
    scope: &Scope<'_>,
    method: &str,
    path: &str,
    headers: &[(&str, &str)],
    body: &str,
) -> String {
    let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
    let names = names.join(";");
    let lines: String = headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
    let request = format!("{method}\n{path}\n\n{lines}\n{names}\n{}", hex::encode(Sha256::digest(body)));
    let day = scope.time.split('T').next().unwrap_or_default();
    let place = format!("{day}/{}/{}/aws4_request", scope.region, scope.service);
    let text = format!("AWS4-HMAC-SHA256\n{}\n{place}\n{}", scope.time, hex::encode(Sha256::digest(request)));
    let first = format!("AWS4{}", keys.secret_access_key).into_bytes();
    let parts = [day, scope.region, scope.service, "aws4_request"];
    let key = parts.iter().fold(first, |key, part| mac(&key, part.as_bytes()));
    let signature = hex::encode(mac(&key, text.as_bytes()));
    format!("AWS4-HMAC-SHA256 Credential={}/{place}, SignedHeaders={names}, Signature={signature}", keys.access_key_id)
}

fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length is a key");
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

/// `20150830T123600Z`, in UTC.
fn timestamp(unix_seconds: u64) -> String {
    let (days, seconds) = (unix_seconds / 86_400, unix_seconds % 86_400);
    let (year, month, day) = date(days);
    let (hour, minute, second) = (seconds / 3600, seconds / 60 % 60, seconds % 60);
    format!("{year:04}{month:02}{day:02}T{hour:02}{minute:02}{second:02}Z")
}

/// Year, month and day of a number of days after the beginning of 1970.
fn date(mut days: u64) -> (u64, usize, u64) {
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    while days >= 365 + u64::from(is_leap(year)) {
        days -= 365 + u64::from(is_leap(year));
        year += 1;
    }
    let mut month = 1;
    for length in [31, 28 + u64::from(is_leap(year)), 31, 30, 31, 30, 31, 31, 30, 31, 30] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The examples of Amazon's own documentation of the signature.
    #[test]
    fn the_published_examples_come_out_as_published() {
        let keys = AwsKeys {
            access_key_id: "AKIDEXAMPLE".to_owned(),
            secret_access_key: "wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY".to_owned(),
            session_token: None,
            region: "us-east-1".to_owned(),
        };
        let scope = Scope { region: "us-east-1", service: "service", time: "20150830T123600Z" };
        let headers = [("host", "example.amazonaws.com"), ("x-amz-date", "20150830T123600Z")];
        let signed = |method| authorization(&keys, &scope, method, "/", &headers, "");
        assert_eq!(
            signed("GET"),
            "AWS4-HMAC-SHA256 Credential=AKIDEXAMPLE/20150830/us-east-1/service/aws4_request, \
             SignedHeaders=host;x-amz-date, \
             Signature=5fa00fa31553b73ebf1942676e86291e8372ff2a2260956d9b8aae1d763fbf31"
        );
        let post = signed("POST");
        assert!(post.ends_with("5da7c1a2acd57cee7505fc6676e4e544621c30862966e37dddb68e92efbe5d6b"), "{post}");
    }

    #[test]
    fn times_are_written_as_amazon_reads_them() {
        assert_eq!(timestamp(0), "19700101T000000Z");
        assert_eq!(timestamp(1_440_938_160), "20150830T123600Z");
        assert_eq!(timestamp(951_782_400), "20000229T000000Z");
        assert_eq!(timestamp(4_107_542_399), "21000228T235959Z");
        assert_eq!(timestamp(4_107_542_400), "21000301T000000Z");
    }

    #[test]
    fn china_has_a_domain_of_its_own() {
        assert_eq!(own_endpoint("eu-west-1"), "https://api.ecr.eu-west-1.amazonaws.com/");
        assert_eq!(own_endpoint("cn-north-1"), "https://api.ecr.cn-north-1.amazonaws.com.cn/");
    }

    #[test]
    fn a_refusal_says_what_amazon_says() {
        let body = br#"{"__type":"UnrecognizedClientException","message":"The security token is invalid."}"#;
        let reason = reason_of(StatusCode::BAD_REQUEST, body);
        assert_eq!(reason, "The security token is invalid. (`UnrecognizedClientException`)");
        assert_eq!(reason_of(StatusCode::BAD_GATEWAY, b"<html>"), "it answered `502 Bad Gateway`");
        assert!(password_of(b"{\"authorizationData\": []}").is_none());
    }
}

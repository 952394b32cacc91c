//! Signature Version 4, in the `Authorization` header: a URL in an error or a log then carries no signature.

use hmac::{Hmac, Mac};
use sha2::{Digest, Sha256};
use types::variables::Variables;

/// Of an empty body.
pub const EMPTY_SHA256: &str = "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";

/// A person's or a program's right to a bucket.
#[derive(Clone)]
pub struct Keys {
    pub access_key_id: String,
    secret_access_key: String,
    pub session_token: Option<String>,
}

impl std::fmt::Debug for Keys {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Keys").finish_non_exhaustive()
    }
}

impl Keys {
    pub fn from_variables(variables: &Variables) -> Option<Self> {
        let get = |name| variables.iter().find(|(n, v)| n == name && !v.is_empty()).map(|(_, value)| value.clone());
        Some(Self {
            access_key_id: get("AWS_ACCESS_KEY_ID")?,
            secret_access_key: get("AWS_SECRET_ACCESS_KEY")?,
            session_token: get("AWS_SESSION_TOKEN"),
        })
    }
}

/// A request as it will be sent, in the forms that are signed.
pub struct ToSign<'a> {
    pub method: &'a str,
    /// Percent-encoded.
    pub path: &'a str,
    /// Percent-encoded and sorted.
    pub query: &'a str,
    /// Sorted by their names, which are in lower case.
    pub headers: &'a [(&'a str, &'a str)],
    pub body_sha256: &'a str,
    pub region: &'a str,
    /// As [`timestamp`] writes it.
    pub time: &'a str,
}

/// The value of `Authorization`.
pub fn authorization(keys: &Keys, request: &ToSign<'_>) -> String {
    let names = request.headers.iter().map(|(name, _)| *name).collect::<Vec<_>>().join(";");
    let lines: String = request.headers.iter().map(|(name, value)| format!("{name}:{}\n", value.trim())).collect();
    let ToSign { method, path, query, body_sha256, region, time, .. } = request;
    let canonical = format!("{method}\n{path}\n{query}\n{lines}\n{names}\n{body_sha256}");
    let day = time.split('T').next().unwrap_or_default();
    let scope = format!("{day}/{region}/s3/aws4_request");
    let text = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", hex::encode(Sha256::digest(canonical)));
    let first = format!("AWS4{}", keys.secret_access_key).into_bytes();
    let key = [day, region, "s3", "aws4_request"].iter().fold(first, |key, part| mac(&key, part.as_bytes()));
    let signature = hex::encode(mac(&key, text.as_bytes()));
    format!("AWS4-HMAC-SHA256 Credential={}/{scope},SignedHeaders={names},Signature={signature}", keys.access_key_id)
}

fn mac(key: &[u8], text: &[u8]) -> Vec<u8> {
    #[expect(clippy::expect_used, reason = "HMAC takes a key of any length")]
    let mut mac = Hmac::<Sha256>::new_from_slice(key).expect("any length is a key");
    mac.update(text);
    mac.finalize().into_bytes().to_vec()
}

/// `20150830T123600Z`.
pub fn timestamp(now: jiff::Timestamp) -> String {
    now.strftime("%Y%m%dT%H%M%SZ").to_string()
}

/// All bytes but those that every store leaves as they are. `keep_slashes` for paths.
pub fn percent_encode(text: &str, keep_slashes: bool) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'A'..=b'Z' | b'a'..=b'z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => encoded.push(char::from(byte)),
            b'/' if keep_slashes => encoded.push('/'),
            _ => encoded.push_str(&format!("%{byte:02X}")),
        }
    }
    encoded
}

/// Sorted as the signature wants it.
pub fn query_string(pairs: &[(&str, &str)]) -> String {
    let mut encoded: Vec<(String, String)> =
        pairs.iter().map(|(name, value)| (percent_encode(name, false), percent_encode(value, false))).collect();
    encoded.sort();
    encoded.iter().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("&")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn keys() -> Keys {
        let variables = [
            ("AWS_ACCESS_KEY_ID", "AKIAIOSFODNN7EXAMPLE"),
            ("AWS_SECRET_ACCESS_KEY", "wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"),
        ];
        let variables: Vec<_> = variables.iter().map(|(n, v)| ((*n).to_owned(), (*v).to_owned())).collect();
        Keys::from_variables(&variables.into()).unwrap()
    }

    /// The examples of Amazon's documentation of the signature for S3.
    #[test]
    fn the_published_examples_come_out_as_published() {
        let sign = |path, query, headers: &[(&str, &str)]| {
            let request = ToSign {
                method: "GET",
                path,
                query,
                headers,
                body_sha256: EMPTY_SHA256,
                region: "us-east-1",
                time: "20130524T000000Z",
            };
            authorization(&keys(), &request)
        };
        let host = ("host", "examplebucket.s3.amazonaws.com");
        let (hash, date) = (("x-amz-content-sha256", EMPTY_SHA256), ("x-amz-date", "20130524T000000Z"));
        let object = sign("/test.txt", "", &[host, ("range", "bytes=0-9"), hash, date]);
        assert_eq!(
            object,
            "AWS4-HMAC-SHA256 Credential=AKIAIOSFODNN7EXAMPLE/20130524/us-east-1/s3/aws4_request,\
             SignedHeaders=host;range;x-amz-content-sha256;x-amz-date,\
             Signature=f0e8bdb87c964420e857bd35b5d6ed310bd44f0170aba48dd91039c6036bdb41"
        );
        let list = sign("/", &query_string(&[("prefix", "J"), ("max-keys", "2")]), &[host, hash, date]);
        assert!(list.ends_with("34b48302e7b5fa45bde8084f4b7868a86f0a534bc59db6670ed5711ef69dc6f7"), "{list}");
    }

    #[test]
    fn the_secret_is_not_shown() {
        assert!(!format!("{:?}", keys()).contains("bPxRfi"));
    }

    #[test]
    fn keys_of_any_text_are_encoded_byte_by_byte() {
        assert_eq!(percent_encode("a b/ü+%~", true), "a%20b/%C3%BC%2B%25~");
        assert_eq!(percent_encode("a/b", false), "a%2Fb");
        assert_eq!(
            query_string(&[("prefix", "a/&b"), ("list-type", "2"), ("uploads", "")]),
            "list-type=2&prefix=a%2F%26b&uploads="
        );
    }

    #[test]
    fn times_are_written_as_amazon_reads_them() {
        assert_eq!(timestamp(jiff::Timestamp::from_second(1_440_938_160).unwrap()), "20150830T123600Z");
    }

    #[test]
    fn half_a_pair_of_keys_is_none() {
        let half: Variables = vec![("AWS_ACCESS_KEY_ID".to_owned(), "a".to_owned())].into();
        assert!(Keys::from_variables(&half).is_none());
    }
}

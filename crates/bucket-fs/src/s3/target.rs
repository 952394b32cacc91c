//! Where a bucket is.

use http::uri::{Authority, Uri};

use super::sign::percent_encode;
use crate::BucketSpec;

/// Amazon's name for where a store is when nobody says it, which other stores take too.
pub const DEFAULT_REGION: &str = "us-east-1";

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Target {
    /// `https` or `http`.
    scheme: String,
    /// As in the `Host` header.
    pub host: String,
    /// What comes before the key: empty or `/bucket`, percent-encoded.
    path: String,
    pub region: String,
    /// Only this machine is asked: a proxy cannot reach it.
    pub is_loopback: bool,
}

impl Target {
    /// Amazon's own buckets are a part of the host's name, unless they contain a dot (which no certificate covers) or
    /// their owner wants otherwise. With any other endpoint the bucket is in the path, which all stores understand and
    /// which needs no name of its own for each bucket.
    ///
    /// # Errors
    /// None when the endpoint is no URL of a server.
    pub fn new(spec: &BucketSpec, region: Option<&str>) -> Option<Self> {
        let region = region.filter(|region| !region.is_empty()).unwrap_or(DEFAULT_REGION).to_owned();
        let (scheme, authority, base) = match &spec.endpoint {
            Some(endpoint) => parse(endpoint)?,
            None => ("https".to_owned(), amazons_own(&region).parse::<Authority>().ok()?, String::new()),
        };
        let default_port = if scheme == "https" { 443 } else { 80 };
        let name = authority.host().to_ascii_lowercase();
        let host = match authority.port_u16() {
            Some(port) if port != default_port => format!("{name}:{port}"),
            _ => name.clone(),
        };
        let is_amazons = name.ends_with(".amazonaws.com") || name.ends_with(".amazonaws.com.cn");
        let in_path = spec.force_path_style || !is_amazons || spec.bucket.contains('.');
        let bucket = percent_encode(&spec.bucket, false);
        let is_loopback = name == "localhost"
            || name.trim_matches(['[', ']']).parse::<std::net::IpAddr>().is_ok_and(|ip| ip.is_loopback());
        Some(match in_path {
            true => Self { scheme, host, path: format!("{base}/{bucket}"), region, is_loopback },
            false => Self { scheme, host: format!("{bucket}.{host}"), path: base, region, is_loopback },
        })
    }

    /// For people.
    pub fn endpoint(&self) -> String {
        format!("{}://{}", self.scheme, self.host)
    }

    /// Percent-encoded. Requests about the bucket itself have the key ``.
    pub fn path(&self, key: &str) -> String {
        format!("{}/{}", self.path, percent_encode(key, true))
    }

    pub fn url(&self, path: &str, query: &str) -> String {
        let separator = if query.is_empty() { "" } else { "?" };
        format!("{}://{}{path}{separator}{query}", self.scheme, self.host)
    }
}

fn amazons_own(region: &str) -> String {
    let domain = if region.starts_with("cn-") { "amazonaws.com.cn" } else { "amazonaws.com" };
    format!("s3.{region}.{domain}")
}

fn parse(endpoint: &str) -> Option<(String, Authority, String)> {
    let uri: Uri = endpoint.trim().parse().ok()?;
    let scheme = uri.scheme_str().filter(|scheme| ["http", "https"].contains(scheme))?.to_owned();
    let authority = uri.authority().filter(|authority| !authority.as_str().contains('@'))?.clone();
    if uri.query().is_some() {
        return None;
    }
    Some((scheme, authority, uri.path().trim_end_matches('/').to_owned()))
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use types::variables::Variables;

    use super::*;

    fn target(bucket: &str, endpoint: Option<&str>, force_path_style: bool, region: Option<&str>) -> Option<Target> {
        let spec = BucketSpec {
            bucket: bucket.to_owned(),
            endpoint: endpoint.map(str::to_owned),
            prefix: String::new(),
            credentials: Variables::default(),
            read_only: false,
            requester_pays: false,
            force_path_style,
            metadata_ttl: Duration::ZERO,
        };
        Target::new(&spec, region)
    }

    fn url(bucket: &str, endpoint: Option<&str>, force: bool, region: Option<&str>) -> String {
        let target = target(bucket, endpoint, force, region).unwrap();
        target.url(&target.path("a b"), "")
    }

    #[test]
    fn amazons_buckets_are_hosts_and_others_are_folders() {
        assert_eq!(url("b", None, false, Some("eu-west-1")), "https://b.s3.eu-west-1.amazonaws.com/a%20b");
        assert_eq!(url("b", None, false, Some("cn-north-1")), "https://b.s3.cn-north-1.amazonaws.com.cn/a%20b");
        assert_eq!(url("b.c", None, false, None), "https://s3.us-east-1.amazonaws.com/b.c/a%20b");
        assert_eq!(url("b", None, true, None), "https://s3.us-east-1.amazonaws.com/b/a%20b");
        assert_eq!(
            url("b", Some("https://s3.eu-west-1.amazonaws.com"), false, None),
            "https://b.s3.eu-west-1.amazonaws.com/a%20b"
        );
        assert_eq!(url("b", Some("http://127.0.0.1:9000/"), false, None), "http://127.0.0.1:9000/b/a%20b");
        assert_eq!(
            url("b", Some("https://x.r2.cloudflarestorage.com"), false, None),
            "https://x.r2.cloudflarestorage.com/b/a%20b"
        );
        assert_eq!(url("b", Some("https://h:443/base"), false, None), "https://h/base/b/a%20b");
    }

    #[test]
    fn what_is_no_server_is_refused() {
        for bad in ["", "minio:9000", "ftp://h", "http://", "https://u:p@h", "https://h?x=1", "not a url"] {
            assert_eq!(target("b", Some(bad), false, None), None, "{bad:?}");
        }
    }

    #[test]
    fn this_machine_is_known() {
        let of = |endpoint| target("b", Some(endpoint), false, None).unwrap().is_loopback;
        assert!(of("http://localhost:1") && of("http://127.0.0.3:1") && of("http://[::1]:1"));
        assert!(!of("http://10.0.0.1:1") && !of("http://localhost.example.com"));
    }
}

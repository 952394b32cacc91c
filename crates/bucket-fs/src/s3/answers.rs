//! What stores answer, read from their XML and headers.

use std::time::{Duration, SystemTime};

use http::{HeaderMap, HeaderValue, StatusCode};
use md5::Digest;
use roxmltree::{Document, Node, ParsingOptions};

use super::{S3Error, shape};

/// Elements, and the texts in and between them: a page of a thousand objects with all that stores say of each has less
/// than half.
const MAX_NODES: u32 = 100_000;
/// In bytes, as that of the next two. Etags are digests with a few characters more; one is kept for each file that is
/// known of, and for each part.
const MAX_ETAG: usize = 256;
/// Where a listing goes on, and which upload is meant: a key in some encoding at most.
const MAX_TOKEN: usize = 4 << 10;

/// What is known of an object.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Object {
    pub size: u64,
    pub modified: SystemTime,
    /// Names the content; with its quotes.
    pub etag: String,
}

/// One object of a listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listed {
    pub key: String,
    pub object: Object,
}

/// A part of a listing, in the order of keys (objects and folders each by themselves).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Page {
    pub objects: Vec<Listed>,
    /// Common prefixes, which end in the delimiter.
    pub folders: Vec<String>,
    /// For the next page.
    pub next: Option<String>,
}

pub fn page(body: &str) -> Result<Page, S3Error> {
    let document = parse(body)?;
    let root = document.root_element();
    if root.tag_name().name() != "ListBucketResult" {
        return Err(S3Error::Malformed(format!("`{}` instead of a listing", root.tag_name().name())));
    }
    let is_encoded = text_of(root, "EncodingType").as_deref() == Some("url");
    let decode = |text: String| if is_encoded { decode_url(&text) } else { text };
    let mut page = Page::default();
    for node in root.children() {
        match node.tag_name().name() {
            "Contents" => {
                let key = text_of(node, "Key").ok_or_else(|| missing("Key"))?;
                let size = text_of(node, "Size").and_then(|size| size.parse().ok()).ok_or_else(|| missing("Size"))?;
                let modified = text_of(node, "LastModified").and_then(|text| text.parse::<jiff::Timestamp>().ok());
                let modified = modified.map_or(SystemTime::UNIX_EPOCH, SystemTime::from);
                let etag = as_etag(text_of(node, "ETag").unwrap_or_default())?;
                page.objects.push(Listed { key: decode(key), object: Object { size, modified, etag } });
            }
            "CommonPrefixes" => page.folders.push(decode(text_of(node, "Prefix").ok_or_else(|| missing("Prefix"))?)),
            _ => {}
        }
    }
    if text_of(root, "IsTruncated").as_deref() == Some("true") {
        page.next = Some(token_of(root, "NextContinuationToken")?);
    }
    Ok(page)
}

/// From the headers of an answer to GET or HEAD of a whole object.
pub fn object(headers: &HeaderMap) -> Result<Object, S3Error> {
    let header = |name: &str| headers.get(name).and_then(|value| value.to_str().ok());
    let size = header("content-length").and_then(|n| n.parse().ok()).ok_or_else(|| missing("Content-Length"))?;
    let modified = header("last-modified").and_then(http_date).unwrap_or(SystemTime::UNIX_EPOCH);
    Ok(Object { size, modified, etag: etag(headers)? })
}

/// Empty where the store names none.
pub fn etag(headers: &HeaderMap) -> Result<String, S3Error> {
    as_etag(headers.get("etag").and_then(|value| value.to_str().ok()).unwrap_or_default().to_owned())
}

/// It is kept, and sent back in a header.
fn as_etag(text: String) -> Result<String, S3Error> {
    match text.len() <= MAX_ETAG && HeaderValue::from_str(&text).is_ok() {
        true => Ok(text),
        false => Err(S3Error::Malformed(format!("an `ETag` of {} bytes", text.len()))),
    }
}

/// `Wed, 12 Oct 2009 17:50:00 GMT`. The day of the week is not looked at: some stores get it wrong.
fn http_date(text: &str) -> Option<SystemTime> {
    let parser = jiff::fmt::rfc2822::DateTimeParser::new().relaxed_weekday(true);
    let seconds = parser.parse_timestamp(text).ok()?.as_second();
    Some(SystemTime::UNIX_EPOCH + Duration::from_secs(u64::try_from(seconds).ok()?))
}

pub fn upload_id(body: &str) -> Result<String, S3Error> {
    let document = parse(body)?;
    token_of(document.root_element(), "UploadId")
}

/// A completed upload is answered with 200 before it is known whether it can be completed; the body tells. Then only the
/// store's word says whether another try may help.
pub fn completed(body: &str) -> Result<String, S3Error> {
    let document = parse(body)?;
    match document.root_element().tag_name().name() {
        "Error" => Err(refused(StatusCode::OK, body, &HeaderMap::new())),
        _ => as_etag(text_of(document.root_element(), "ETag").unwrap_or_default()),
    }
}

pub fn refused(status: StatusCode, body: &str, headers: &HeaderMap) -> S3Error {
    let document = parse(body).ok();
    let field = |name| {
        let root = document.as_ref().map(Document::root_element).filter(|root| root.tag_name().name() == "Error");
        root.and_then(|root| text_of(root, name))
    };
    let region = headers.get("x-amz-bucket-region").and_then(|value| value.to_str().ok()).map(str::to_owned);
    S3Error::Refused {
        status,
        code: field("Code").unwrap_or_default(),
        message: field("Message").unwrap_or_default(),
        region: region.or_else(|| field("Region")),
    }
}

/// The list of parts that makes an upload whole.
pub fn completion(etags: &[String]) -> String {
    let escape = |text: &str| text.replace('&', "&amp;").replace('<', "&lt;").replace('"', "&quot;");
    let part = |(index, etag): (usize, &String)| {
        format!("<Part><PartNumber>{}</PartNumber><ETag>{}</ETag></Part>", index + 1, escape(etag))
    };
    let parts: String = etags.iter().enumerate().map(part).collect();
    format!(
        "<CompleteMultipartUpload xmlns=\"http://s3.amazonaws.com/doc/2006-03-01/\">{parts}</CompleteMultipartUpload>"
    )
}

/// What the whole object's etag will be, where those of the parts are digests, as with most stores.
pub fn whole_etag(parts: &[String]) -> Option<String> {
    let mut digests = md5::Md5::new();
    for part in parts {
        let digest = hex::decode(part.trim_matches('"')).ok().filter(|digest| digest.len() == 16)?;
        digests.update(digest);
    }
    Some(format!("{}-{}", hex::encode(digests.finalize()), parts.len()))
}

fn parse(body: &str) -> Result<Document<'_>, S3Error> {
    // Long uploads are kept alive by white space before the answer, which XML itself does not allow there.
    let body = body.trim_start();
    if let Some(fault) = shape::fault(body) {
        return Err(S3Error::Malformed(format!("no answer of a store ({fault})")));
    }
    let options = ParsingOptions { nodes_limit: MAX_NODES, ..Default::default() };
    Document::parse_with_options(body, options).map_err(|error| S3Error::Malformed(format!("no XML ({error})")))
}

fn text_of(node: Node<'_, '_>, child: &str) -> Option<String> {
    let child = node.children().find(|node| node.tag_name().name() == child)?;
    Some(child.text().unwrap_or_default().to_owned())
}

fn token_of(node: Node<'_, '_>, child: &str) -> Result<String, S3Error> {
    let token = text_of(node, child).ok_or_else(|| missing(child))?;
    match token.len() <= MAX_TOKEN {
        true => Ok(token),
        false => Err(S3Error::Malformed(format!("`{child}` of {} bytes", token.len()))),
    }
}

fn missing(what: &str) -> S3Error {
    S3Error::Malformed(format!("`{what}` is missing"))
}

/// Keys may have characters that XML cannot; so they are asked for in the encoding of forms.
fn decode_url(text: &str) -> String {
    let mut bytes = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let [first, tail @ ..] = rest {
        rest = tail;
        let hex = |b: u8| char::from(b).to_digit(16).map(|d| d as u8);
        match (first, tail) {
            (b'+', _) => bytes.push(b' '),
            (b'%', [high, low, after @ ..]) if hex(*high).is_some() && hex(*low).is_some() => {
                bytes.push(hex(*high).unwrap_or(0) << 4 | hex(*low).unwrap_or(0));
                rest = after;
            }
            _ => bytes.push(*first),
        }
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const LIST: &str = r#"<?xml version="1.0" encoding="UTF-8"?>
        <ListBucketResult xmlns="http://s3.amazonaws.com/doc/2006-03-01/">
          <Name>b</Name><EncodingType>url</EncodingType><IsTruncated>true</IsTruncated>
          <NextContinuationToken>1/tok=</NextContinuationToken>
          <Contents><Key>a%2B+%C3%BC</Key><LastModified>2009-10-12T17:50:30.000Z</LastModified>
            <ETag>&quot;abc&quot;</ETag><Size>434234</Size><StorageClass>STANDARD</StorageClass></Contents>
          <CommonPrefixes><Prefix>photos%2F</Prefix></CommonPrefixes>
        </ListBucketResult>"#;

    #[test]
    fn a_listing_is_read_with_its_encoded_keys() {
        let page = page(LIST).unwrap();
        let object = &page.objects[0];
        assert_eq!(
            (object.key.as_str(), object.object.size, object.object.etag.as_str()),
            ("a+ ü", 434_234, "\"abc\"")
        );
        let since = object.object.modified.duration_since(SystemTime::UNIX_EPOCH).unwrap();
        assert_eq!(since.as_secs(), 1_255_369_830);
        assert_eq!((page.folders, page.next.as_deref()), (vec!["photos/".to_owned()], Some("1/tok=")));
    }

    #[test]
    fn without_the_encoding_keys_are_as_they_are() {
        let plain = LIST.replace("<EncodingType>url</EncodingType>", "").replace("a%2B+%C3%BC", "a%2B+&amp;&#10;");
        assert_eq!(page(&plain).unwrap().objects[0].key, "a%2B+&\n");
    }

    #[test]
    fn nonsense_is_told_from_an_empty_listing() {
        assert_eq!(page("<ListBucketResult/>").unwrap(), Page::default());
        assert!(page("<html>").is_err() && page("<html/>").is_err() && page("").is_err());
        let long = format!("<ListBucketResult>{}</ListBucketResult>", "<a/>".repeat(MAX_NODES as usize));
        assert!(page(&long).is_err());
        assert!(page("<ListBucketResult><IsTruncated>true</IsTruncated></ListBucketResult>").is_err());
    }

    #[test]
    fn an_upload_that_fails_late_is_a_failure() {
        assert_eq!(completed("\n  <R><ETag>\"x-2\"</ETag></R>").unwrap(), "\"x-2\"");
        let error = completed("<Error><Code>InternalError</Code><Message>try</Message></Error>").unwrap_err();
        assert!(error.may_pass());
        assert!(!completed("<Error><Code>InvalidPart</Code></Error>").unwrap_err().may_pass());
    }

    #[test]
    fn what_is_kept_of_an_answer_is_short() {
        let listed = |etag: &str| {
            let entry = format!("<Contents><Key>k</Key><Size>1</Size><ETag>{etag}</ETag></Contents>");
            page(&format!("<ListBucketResult>{entry}</ListBucketResult>"))
        };
        let headers = |etag: &str| HeaderMap::from_iter([(http::header::ETAG, etag.parse().unwrap())]);
        let (longest, longer) = ("x".repeat(MAX_ETAG), "x".repeat(MAX_ETAG + 1));
        assert_eq!(listed(&longest).unwrap().objects[0].object.etag, longest);
        assert!(listed(&longer).is_err() && listed("a&#10;b").is_err());
        assert!(etag(&headers(&longest)).is_ok() && etag(&headers(&longer)).is_err());
        assert!(completed(&format!("<R><ETag>{longer}</ETag></R>")).is_err());

        let token = "x".repeat(MAX_TOKEN + 1);
        assert!(upload_id(&format!("<R><UploadId>{}</UploadId></R>", &token[1..])).is_ok());
        assert!(upload_id(&format!("<R><UploadId>{token}</UploadId></R>")).is_err());
        let next = format!("<IsTruncated>true</IsTruncated><NextContinuationToken>{token}</NextContinuationToken>");
        assert!(page(&format!("<ListBucketResult>{next}</ListBucketResult>")).is_err());
    }

    #[test]
    fn refusals_without_a_body_have_their_status_only() {
        let error = refused(StatusCode::NOT_FOUND, "", &HeaderMap::new());
        assert!(error.is_missing_object());
        let body = "<Error><Code>AuthorizationHeaderMalformed</Code><Region>eu-west-1</Region></Error>";
        let S3Error::Refused { region, .. } = refused(StatusCode::BAD_REQUEST, body, &HeaderMap::new()) else {
            panic!()
        };
        assert_eq!(region.as_deref(), Some("eu-west-1"));
    }

    #[test]
    fn dates_of_headers_are_read_whatever_the_day_of_the_week() {
        let of = |text| http_date(text).map(|t| t.duration_since(SystemTime::UNIX_EPOCH).unwrap().as_secs());
        assert_eq!(of("Mon, 12 Oct 2009 17:50:30 GMT"), Some(1_255_369_830));
        assert_eq!(of("Fri, 12 Oct 2009 17:50:30 GMT"), Some(1_255_369_830));
        assert_eq!(of("yesterday"), None);
    }

    #[test]
    fn the_etag_of_a_whole_follows_from_its_parts() {
        let parts = ["\"d41d8cd98f00b204e9800998ecf8427e\"".to_owned()];
        assert_eq!(whole_etag(&parts).as_deref(), Some("59adb24ef3cdbe0297f05b395827453f-1"));
        assert_eq!(whole_etag(&["\"opaque\"".to_owned()]), None);
    }

    #[test]
    fn parts_are_numbered_from_one() {
        let text = completion(&["\"a\"".to_owned(), "b".to_owned()]);
        assert!(text.contains("<PartNumber>1</PartNumber><ETag>&quot;a&quot;</ETag>"), "{text}");
        assert!(text.contains("<PartNumber>2</PartNumber><ETag>b</ETag>"), "{text}");
    }
}

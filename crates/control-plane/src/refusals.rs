//! What of a definition is refused because Dorian does not serve it yet.
//!
//! Accepting an option and ignoring it would be found out in production, and refusing the definition would take down
//! an app of which everything else works. So such a function is defined and published like any other: publishing names
//! it in a warning, a call of it is refused, and no container of it ever starts. What the user got wrong is not decided
//! here; that stops the deployment.
//!
//! Functions that make images are an exception: the image is needed at once, so their definition is refused.

use std::collections::BTreeMap;

use client_protocol::wire;
use wire::{WebhookConfig, WebhookType};

/// A warning lists this many functions and counts the rest.
const MOST_LISTED: usize = 20;

/// What a definition asks for and does not get.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Feature {
    Gpu,
    WebEndpoint(WebhookType),
    Proxy,
    Cluster,
    Server,
    RestrictedAccess,
    Interactive,
    BucketRole,
}

impl Feature {
    /// As the predicate of a sentence about the function.
    const fn words(self) -> &'static str {
        match self {
            Self::Gpu => "uses GPUs (`gpu=`)",
            Self::WebEndpoint(WebhookType::AsgiApp) => "is a web endpoint (`@modal.asgi_app`)",
            Self::WebEndpoint(WebhookType::WsgiApp) => "is a web endpoint (`@modal.wsgi_app`)",
            Self::WebEndpoint(WebhookType::WebServer) => "is a web endpoint (`@modal.web_server`)",
            Self::WebEndpoint(_) => "is a web endpoint (`@modal.fastapi_endpoint`)",
            Self::Proxy => "uses a proxy (`proxy=`)",
            Self::Cluster => "runs on a cluster (`@modal.experimental.clustered`)",
            Self::Server => "is a server (`@app.server`)",
            Self::RestrictedAccess => "restricts its containers (`restrict_modal_access=`)",
            Self::Interactive => "is interactive (`modal run -i`)",
            Self::BucketRole => "assumes a role for a bucket (`oidc_auth_role_arn=`; `secret=` is served)",
        }
    }
}

/// How much of a function is refused.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Refusals {
    #[default]
    Nothing,
    Everything(Feature),
    /// Methods of a class. Unless these are `all` that it has, the others are served.
    Methods {
        refused: BTreeMap<String, Feature>,
        all: bool,
    },
}

/// Decides what of a well-formed definition is refused.
#[must_use]
pub fn decide_refusals(function: &wire::Function) -> Refusals {
    if let Some(feature) = refused_as_a_whole(function) {
        return Refusals::Everything(feature);
    }
    let methods = function.method_definitions.iter();
    let refused: BTreeMap<String, Feature> = methods
        .filter_map(|(name, method)| Some((name.clone(), web_endpoint(method.webhook_config.as_ref())?)))
        .collect();
    if refused.is_empty() {
        return Refusals::Nothing;
    }
    Refusals::Methods { all: refused.len() == function.method_definitions.len(), refused }
}

fn refused_as_a_whole(f: &wire::Function) -> Option<Feature> {
    let gpu = f.resources.as_ref().and_then(|r| r.gpu_config.as_ref()).is_some_and(|g| g.count > 0);
    let has_role = |mount: &wire::CloudBucketMount| mount.oidc_auth_role_arn.as_ref().is_some_and(|a| !a.is_empty());
    let wanted = [
        (gpu, Feature::Gpu),
        (f.is_server, Feature::Server),
        (f.proxy_id.as_ref().is_some_and(|p| !p.is_empty()), Feature::Proxy),
        (f.i6pn_enabled || f.experimental_group_size > 0, Feature::Cluster),
        (f.untrusted, Feature::RestrictedAccess),
        (f.pty_info.as_ref().is_some_and(|p| p.enabled), Feature::Interactive),
        (f.cloud_bucket_mounts.iter().any(has_role), Feature::BucketRole),
    ];
    let first = wanted.iter().find(|(is_wanted, _)| *is_wanted).map(|(_, feature)| *feature);
    web_endpoint(f.webhook_config.as_ref()).or(first)
}

fn web_endpoint(config: Option<&WebhookConfig>) -> Option<Feature> {
    config.filter(|config| config.r#type != 0).map(|config| Feature::WebEndpoint(config.r#type()))
}

impl Refusals {
    /// No call of the function is ever served: its containers would wait for nothing.
    #[must_use]
    pub fn is_total(&self) -> bool {
        matches!(self, Self::Everything(_) | Self::Methods { all: true, .. })
    }

    /// Why a call of the function, or of a method of the class, is refused: a sentence. Without a method it is about any
    /// call that there may be.
    #[must_use]
    pub fn of_call(&self, function: &wire::Function, method: &str) -> Option<String> {
        let (what, feature) = match self {
            Self::Nothing => return None,
            Self::Everything(feature) => (name_of(function), feature),
            Self::Methods { refused, all } => match refused.get(method) {
                Some(feature) => (name_of_method(function, method), feature),
                None => (name_of(function), refused.values().next().filter(|_| *all)?),
            },
        };
        Some(format!("{what} {}, which Dorian does not serve yet", feature.words()))
    }

    /// Each refusal as a clause without reason: which function or method, and what it asks for.
    fn clauses(&self, function: &wire::Function) -> Vec<String> {
        match self {
            Self::Nothing => Vec::new(),
            Self::Everything(feature) => {
                let unscheduled = if function.schedule.is_some() { "; its schedule does not run" } else { "" };
                vec![format!("{} {}{unscheduled}", name_of(function), feature.words())]
            }
            Self::Methods { refused, .. } => {
                let clause = |(method, feature): (&String, &Feature)| {
                    format!("{} {}", name_of_method(function, method), feature.words())
                };
                refused.iter().map(clause).collect()
            }
        }
    }
}

/// What is said when an app is published of which some is refused.
#[must_use]
pub fn publication_warning<'a>(
    functions: impl IntoIterator<Item = (&'a Refusals, &'a wire::Function)>,
) -> Option<String> {
    let clauses: Vec<String> = functions.into_iter().flat_map(|(refusals, f)| refusals.clauses(f)).collect();
    if clauses.is_empty() {
        return None;
    }
    let more = clauses.len().saturating_sub(MOST_LISTED);
    let listed = clauses.iter().take(MOST_LISTED).map(|clause| format!("\n- {clause}"));
    let rest = if more > 0 { format!("\n- and {more} more") } else { String::new() };
    Some(format!(
        "Dorian does not serve yet what some functions of this app use. They are refused when they are called; all others \
         work.{}{rest}",
        listed.collect::<String>()
    ))
}

fn name_of(function: &wire::Function) -> String {
    match function.function_name.strip_suffix(".*") {
        Some(class) => format!("class `{class}`"),
        None if function.is_server => format!("class `{}`", function.function_name),
        None if function.is_method => format!("method `{}`", function.function_name),
        None => format!("function `{}`", function.function_name),
    }
}

fn name_of_method(class: &wire::Function, method: &str) -> String {
    format!("method `{}.{method}`", class.function_name.trim_end_matches(".*"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn with_gpus(count: u32) -> wire::Function {
        let gpu_config = Some(wire::GpuConfig { count, ..Default::default() });
        let resources = Some(wire::Resources { gpu_config, ..Default::default() });
        wire::Function { function_name: "train".into(), resources, ..Default::default() }
    }

    fn class(methods: &[(&str, Option<WebhookType>)]) -> wire::Function {
        let method = |kind: Option<WebhookType>| wire::MethodDefinition {
            webhook_config: kind.map(|kind| WebhookConfig { r#type: kind as i32, ..Default::default() }),
            ..Default::default()
        };
        wire::Function {
            function_name: "Web.*".into(),
            is_class: true,
            method_definitions: methods.iter().map(|(name, kind)| ((*name).to_owned(), method(*kind))).collect(),
            ..Default::default()
        }
    }

    #[test]
    fn a_call_of_a_function_that_wants_a_gpu_is_refused_with_function_and_feature() {
        let function = with_gpus(1);
        let refusals = decide_refusals(&function);
        assert!(refusals.is_total());
        assert_eq!(
            refusals.of_call(&function, "").as_deref(),
            Some("function `train` uses GPUs (`gpu=`), which Dorian does not serve yet")
        );
        // Clients send the message also when no GPU is wanted.
        assert_eq!(decide_refusals(&with_gpus(0)), Refusals::Nothing);
    }

    #[test]
    fn a_role_for_a_bucket_is_refused_with_what_to_use_instead() {
        let role =
            |arn: &str| wire::CloudBucketMount { oidc_auth_role_arn: Some(arn.to_owned()), ..Default::default() };
        let with = |arn| wire::Function { cloud_bucket_mounts: vec![role(arn)], ..Default::default() };
        assert_eq!(decide_refusals(&with("")), Refusals::Nothing);
        let sentence = decide_refusals(&with("arn:x")).of_call(&with("arn:x"), "").unwrap();
        assert!(sentence.contains("oidc_auth_role_arn=") && sentence.contains("`secret=` is served"), "{sentence}");
    }

    #[test]
    fn of_a_class_only_the_web_endpoints_are_refused() {
        let class = class(&[("hello", Some(WebhookType::Function)), ("work", None)]);
        let refusals = decide_refusals(&class);
        assert!(!refusals.is_total());
        assert_eq!(refusals.of_call(&class, "work"), None);
        let sentence = refusals.of_call(&class, "hello").unwrap();
        assert!(sentence.starts_with("method `Web.hello` is a web endpoint (`@modal.fastapi_endpoint`)"), "{sentence}");
    }

    #[test]
    fn a_class_of_nothing_but_web_endpoints_is_refused_as_a_whole() {
        let only_web = class(&[("ui", Some(WebhookType::AsgiApp)), ("srv", Some(WebhookType::WebServer))]);
        let refusals = decide_refusals(&only_web);
        assert!(refusals.is_total());
        assert!(
            refusals
                .of_call(&only_web, "ui")
                .unwrap()
                .contains("method `Web.ui` is a web endpoint (`@modal.asgi_app`)")
        );
        assert!(refusals.of_call(&only_web, "").unwrap().contains("class `Web` is a web endpoint"));
        assert_eq!(decide_refusals(&class(&[])), Refusals::Nothing);
    }

    #[test]
    fn a_publication_warns_once_of_all_that_is_refused_and_of_schedules_that_do_not_run() {
        let scheduled = wire::Function { schedule: Some(wire::Schedule::default()), ..with_gpus(2) };
        let web = class(&[("hello", Some(WebhookType::WsgiApp)), ("work", None)]);
        let plain = wire::Function::default();
        let all = [&scheduled, &web, &plain].map(|function| (decide_refusals(function), function));
        let text = publication_warning(all.iter().map(|(refusals, function)| (refusals, *function))).unwrap();
        let lines: Vec<&str> = text.lines().skip(1).collect();
        let wanted = [
            "- function `train` uses GPUs (`gpu=`); its schedule does not run",
            "- method `Web.hello` is a web endpoint (`@modal.wsgi_app`)",
        ];
        assert_eq!(lines, wanted);
        assert_eq!(publication_warning([(&Refusals::Nothing, &plain)]), None);
    }

    #[test]
    fn a_long_warning_counts_what_it_does_not_list() {
        let function = with_gpus(1);
        let refusals = decide_refusals(&function);
        let text = publication_warning(std::iter::repeat_n((&refusals, &function), MOST_LISTED + 3)).unwrap();
        assert!(text.ends_with("\n- and 3 more"), "{text}");
        assert_eq!(text.lines().count(), 1 + MOST_LISTED + 1);
    }
}

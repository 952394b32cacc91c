//! The parameters of a class, checked against what the class says of them.
//!
//! The client checks them too, against the class as it knows it. A handle that was looked up before the class was
//! deployed anew, or a program in another language, may send what no longer fits: without this check the first to find
//! out would be a container, once for every call.

use client_protocol::wire;
use prost::Message;
use wire::class_parameter_info::ParameterSerializationFormat as Format;
use wire::class_parameter_value::ValueOneof as Value;

/// Why parameters do not fit.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub enum ParameterError {
    #[error("the parameters of class `{class}` cannot be decoded")]
    Malformed { class: String },
    #[error("class `{class}` needs a value for parameter `{name}`")]
    Missing { class: String, name: String },
    #[error("class `{class}` has no parameter `{name}`; it has: {known}")]
    Unknown { class: String, name: String, known: String },
    #[error("parameter `{name}` of class `{class}` is of type {wanted}, and the value given is of type {given}")]
    WrongType { class: String, name: String, wanted: &'static str, given: &'static str },
}

/// Checks the bytes of a class's parameters. Those of an `__init__` are a pickle, which only Python can read.
///
/// # Errors
/// The first that does not fit.
pub fn check_parameters(class: &str, info: &wire::ClassParameterInfo, bytes: &[u8]) -> Result<(), ParameterError> {
    if info.format() != Format::ParamSerializationFormatProto {
        return Ok(());
    }
    let class = class.trim_end_matches(".*").to_owned();
    let Ok(given) = wire::ClassParameterSet::decode(bytes) else { return Err(ParameterError::Malformed { class }) };
    for parameter in &given.parameters {
        let name = parameter.name.clone();
        let Some(declared) = info.schema.iter().find(|s| s.name == name) else {
            let known: Vec<&str> = info.schema.iter().map(|s| s.name.as_str()).collect();
            return Err(ParameterError::Unknown { class, name, known: known.join(", ") });
        };
        let (wanted, sent) = (type_name(declared_type(declared)), value_type(parameter.value_oneof.as_ref()));
        if let (Some(wanted), Some(given)) = (wanted, sent)
            && wanted != given
        {
            return Err(ParameterError::WrongType { class, name, wanted, given });
        }
    }
    let is_given = |name: &str| given.parameters.iter().any(|p| p.name == name);
    // Old clients say nothing of defaults and send every value; so do new ones, which fill the defaults in.
    match info.schema.iter().find(|s| !is_given(&s.name)) {
        Some(missing) => Err(ParameterError::Missing { class, name: missing.name.clone() }),
        None => Ok(()),
    }
}

/// A class of which nothing can be made without giving it a value.
pub fn needs_parameters(info: Option<&wire::ClassParameterInfo>) -> bool {
    info.is_some_and(|i| i.format() == Format::ParamSerializationFormatProto && i.schema.iter().any(|s| !s.has_default))
}

fn declared_type(declared: &wire::ClassParameterSpec) -> wire::ParameterType {
    let full = declared.full_type.as_ref().map_or(wire::ParameterType::ParamTypeUnspecified, |t| t.base_type());
    if full == wire::ParameterType::ParamTypeUnspecified { declared.r#type() } else { full }
}

/// The types whose values have a form of their own; others are not compared.
fn type_name(declared: wire::ParameterType) -> Option<&'static str> {
    match declared {
        wire::ParameterType::ParamTypeString => Some("str"),
        wire::ParameterType::ParamTypeInt => Some("int"),
        wire::ParameterType::ParamTypeBytes => Some("bytes"),
        wire::ParameterType::ParamTypeBool => Some("bool"),
        _ => None,
    }
}

fn value_type(value: Option<&Value>) -> Option<&'static str> {
    match value? {
        Value::StringValue(_) => Some("str"),
        Value::IntValue(_) => Some("int"),
        Value::BytesValue(_) => Some("bytes"),
        Value::BoolValue(_) => Some("bool"),
        Value::PickleValue(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn schema() -> wire::ClassParameterInfo {
        let declared = |name: &str, kind: wire::ParameterType, has_default| wire::ClassParameterSpec {
            name: name.into(),
            has_default,
            full_type: Some(wire::GenericPayloadType { base_type: kind as i32, sub_types: vec![] }),
            ..Default::default()
        };
        wire::ClassParameterInfo {
            format: Format::ParamSerializationFormatProto as i32,
            schema: vec![
                declared("name", wire::ParameterType::ParamTypeString, false),
                declared("size", wire::ParameterType::ParamTypeInt, true),
            ],
        }
    }

    fn check(values: Vec<(&str, Value)>) -> Result<(), ParameterError> {
        let value = |(name, value): (&str, Value)| wire::ClassParameterValue {
            name: name.into(),
            value_oneof: Some(value),
            ..Default::default()
        };
        let set = wire::ClassParameterSet { parameters: values.into_iter().map(value).collect() };
        check_parameters("Model.*", &schema(), &set.encode_to_vec())
    }

    #[test]
    fn values_of_the_declared_types_fit() {
        assert_eq!(check(vec![("name", Value::StringValue("a".into())), ("size", Value::IntValue(1))]), Ok(()));
    }

    #[test]
    fn a_wrong_type_a_missing_and_an_unknown_parameter_are_named() {
        let text = |values| check(values).unwrap_err().to_string();
        let name = || ("name", Value::StringValue("a".into()));
        assert_eq!(text(vec![name()]), "class `Model` needs a value for parameter `size`");
        assert_eq!(
            text(vec![name(), ("size", Value::StringValue("large".into()))]),
            "parameter `size` of class `Model` is of type int, and the value given is of type str"
        );
        assert_eq!(
            text(vec![name(), ("colour", Value::IntValue(1))]),
            "class `Model` has no parameter `colour`; it has: name, size"
        );
    }

    #[test]
    fn bytes_that_are_no_parameters_are_refused_and_pickles_are_not_looked_into() {
        let broken = check_parameters("Model.*", &schema(), &[0xff, 0xff]);
        assert_eq!(broken, Err(ParameterError::Malformed { class: "Model".into() }));
        assert_eq!(check_parameters("Model.*", &wire::ClassParameterInfo::default(), &[0xff]), Ok(()));
    }

    #[test]
    fn a_class_needs_parameters_when_one_has_no_default() {
        assert!(needs_parameters(Some(&schema())));
        let defaults = wire::ClassParameterInfo { schema: schema().schema.split_off(1), ..schema() };
        assert!(!needs_parameters(Some(&defaults)) && !needs_parameters(None));
    }
}

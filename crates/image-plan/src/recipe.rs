//! The outline of a Dockerfile: where it starts from, and which instructions follow.

use std::collections::BTreeMap;

use crate::error::DockerfileError;
use crate::expand::expand;
use crate::instruction::{Flag, Instruction, Kind};

/// What FROM names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    Scratch,
    /// An image or a stage by name; the builder knows its own tags (`base`) before it asks a registry.
    Image(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    pub from: From,
    pub from_instruction: Instruction,
    /// ARGs before FROM, with their values: an `ARG name` after it takes its default from here.
    pub global_arguments: BTreeMap<String, String>,
    /// After FROM.
    pub instructions: Vec<Instruction>,
}

impl Recipe {
    /// Splits at FROM and substitutes its arguments. One stage only, for now.
    pub fn from_instructions(
        instructions: Vec<Instruction>,
        build_args: &BTreeMap<String, String>,
    ) -> Result<Option<Self>, DockerfileError> {
        let mut global_arguments = BTreeMap::new();
        let mut remaining = instructions.into_iter();
        let from_instruction = loop {
            let Some(instruction) = remaining.next() else { return Ok(None) };
            match &instruction.kind {
                Kind::From { .. } => break instruction,
                Kind::Arg(arguments) => {
                    for (name, default) in arguments {
                        let value = argument_value(&instruction, name, default, build_args, &global_arguments)?;
                        global_arguments.extend(value.map(|value| (name.clone(), value)));
                    }
                }
                _ => return Err(DockerfileError::new(&instruction.position, "the first instruction must be `FROM`")),
            }
        };
        let rest: Vec<Instruction> = remaining.collect();
        if let Some(second) = rest.iter().find(|instruction| matches!(instruction.kind, Kind::From { .. })) {
            let message = "a second `FROM`: Dockerfiles with several stages are not supported yet";
            return Err(DockerfileError::new(&second.position, message));
        }
        let from = from_name(&from_instruction, &global_arguments)?;
        Ok(Some(Self { from, from_instruction, global_arguments, instructions: rest }))
    }
}

fn argument_value(
    instruction: &Instruction,
    name: &str,
    default: &Option<String>,
    build_args: &BTreeMap<String, String>,
    known: &BTreeMap<String, String>,
) -> Result<Option<String>, DockerfileError> {
    if let Some(given) = build_args.get(name) {
        return Ok(Some(given.clone()));
    }
    let Some(default) = default else { return Ok(None) };
    expand(default, '\\', &|name| known.get(name).cloned())
        .map(Some)
        .map_err(|message| DockerfileError::new(&instruction.position, message))
}

fn from_name(instruction: &Instruction, arguments: &BTreeMap<String, String>) -> Result<From, DockerfileError> {
    let Kind::From { flags, image, .. } = &instruction.kind else {
        return Err(DockerfileError::new(&instruction.position, "the first instruction must be `FROM`"));
    };
    let substitute = |word: &str| {
        let lookup = |name: &str| arguments.get(name).cloned().or_else(|| platform_argument(name));
        expand(word, '\\', &lookup).map_err(|message| DockerfileError::new(&instruction.position, message))
    };
    for Flag { name, value } in flags {
        let platform = substitute(value.as_deref().unwrap_or_default())?;
        if name != "platform" {
            return Err(DockerfileError::new(&instruction.position, format!("`FROM` has no flag `--{name}`")));
        }
        if !matches!(platform.as_str(), "linux/amd64" | "linux/x86_64" | "amd64" | "linux") {
            let message = format!("platform `{platform}` cannot be built here, only `linux/amd64`");
            return Err(DockerfileError::new(&instruction.position, message));
        }
    }
    let name = substitute(image)?;
    match name.as_str() {
        "" => Err(DockerfileError::new(
            &instruction.position,
            format!("`{image}` stands for nothing: its argument is empty"),
        )),
        "scratch" => Ok(From::Scratch),
        _ => Ok(From::Image(name)),
    }
}

/// Arguments that every builder defines by itself.
pub(crate) fn platform_argument(name: &str) -> Option<String> {
    let value = match name {
        "TARGETPLATFORM" | "BUILDPLATFORM" => "linux/amd64",
        "TARGETOS" | "BUILDOS" => "linux",
        "TARGETARCH" | "BUILDARCH" => "amd64",
        "TARGETVARIANT" | "BUILDVARIANT" => "",
        _ => return None,
    };
    Some(value.to_owned())
}

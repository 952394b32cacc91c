//! The outline of a Dockerfile: its stages, what each starts from, and which of them the last one needs.
//!
//! A stage may only use stages before it, so going round in a circle is impossible for what is accepted; what would go
//! round, or looks ahead, is refused where it is written.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

use crate::error::{DockerfileError, Position};
use crate::expand::expand;
use crate::instruction::{Flag, Instruction, Kind};
use crate::mount::MountOptions;
use crate::parse::one_edit_apart;
use crate::scope::{Given, Scope, platform_argument};

/// What FROM names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum From {
    Scratch,
    /// By name; the builder knows its own tags (`base`) before it asks a registry.
    Image(String),
    /// An earlier stage, by its index.
    Stage(usize),
}

/// What `COPY --from=` and `RUN --mount=from=` name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Image(String),
    /// An earlier stage, by its index.
    Stage(usize),
}

/// A FROM and the instructions up to the next.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stage {
    /// In lower case.
    pub name: Option<String>,
    pub from: From,
    pub from_instruction: Instruction,
    /// After FROM.
    pub instructions: Vec<Instruction>,
    /// For each instruction, what its flags take files from, in the flags' order.
    pub origins: Vec<Vec<Origin>>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Recipe {
    /// The last is the one that is wanted.
    pub stages: Vec<Stage>,
    /// ARGs before the first FROM, with their values: an `ARG name` after it takes its default from here.
    pub global_arguments: BTreeMap<String, String>,
}

impl Recipe {
    /// Splits at FROM and finds out what refers to what. `images` are names that are images for certain, whatever stages
    /// are called. None when there is no FROM.
    pub fn from_instructions(
        instructions: Vec<Instruction>,
        build_args: &BTreeMap<String, String>,
        images: &[&str],
    ) -> Result<Option<Self>, DockerfileError> {
        let mut global_arguments = BTreeMap::new();
        let mut outlines: Vec<Outline> = Vec::new();
        for instruction in instructions {
            match (&instruction.kind, outlines.last_mut()) {
                (Kind::From { .. }, _) => {
                    outlines.push(Outline::new(instruction, &global_arguments, &outlines)?);
                }
                (_, Some(outline)) => outline.instructions.push(instruction),
                (Kind::Arg(arguments), None) => {
                    for (name, default) in arguments {
                        let value = argument_value(&instruction, name, default, build_args, &global_arguments)?;
                        global_arguments.extend(value.map(|value| (name.clone(), value)));
                    }
                }
                _ => return Err(DockerfileError::new(&instruction.position, "the first instruction must be `FROM`")),
            }
        }
        if outlines.is_empty() {
            return Ok(None);
        }
        let given = Given { build_args, global: &global_arguments };
        let mut linker = Linker { outlines: &outlines, images, given, scopes: Vec::new() };
        let linked = (0..outlines.len()).map(|index| linker.stage(index)).collect::<Result<Vec<_>, _>>()?;
        let stages = outlines.into_iter().zip(linked).map(|(outline, (from, origins))| Stage {
            name: outline.name,
            from,
            from_instruction: outline.from,
            instructions: outline.instructions,
            origins,
        });
        Ok(Some(Self { stages: stages.collect(), global_arguments }))
    }

    /// Indices of the stages that the last one needs, itself included, in an order in which they can be built.
    pub fn needed(&self) -> Vec<usize> {
        let mut needed: BTreeSet<usize> = BTreeSet::new();
        let mut todo: Vec<usize> = self.stages.len().checked_sub(1).into_iter().collect();
        while let Some(index) = todo.pop() {
            if needed.insert(index) {
                todo.extend(self.stages[index].uses());
            }
        }
        needed.into_iter().collect()
    }

    /// Where an instruction stands, FROM being the first of its stage.
    pub fn place(&self, stage: usize, number: usize) -> Place {
        let several = self.stages.len() > 1;
        let name = self.stages.get(stage).and_then(|stage| stage.name.clone());
        Place {
            stage: several.then(|| name.unwrap_or_else(|| format!("stage-{stage}"))),
            number,
            total: self.stages.get(stage).map_or(0, |stage| stage.instructions.len() + 1),
        }
    }

    /// Names of the images that needed stages start from, each with the first FROM that names it.
    pub fn base_images(&self) -> Vec<(&str, &Instruction)> {
        let mut found: Vec<(&str, &Instruction)> = Vec::new();
        for stage in self.needed().into_iter().map(|index| &self.stages[index]) {
            if let From::Image(name) = &stage.from
                && !found.iter().any(|(known, _)| known == name)
            {
                found.push((name, &stage.from_instruction));
            }
        }
        found
    }
}

/// Where an instruction stands, for logs and errors: `3/7`, and with several stages `build 3/7`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// None where there is only one.
    pub stage: Option<String>,
    pub number: usize,
    pub total: usize,
}

impl Place {
    /// The line that announces it.
    pub fn header(&self, title: &str) -> String {
        match self.stage {
            Some(_) => format!("=> [{self}] {title}"),
            None => format!("=> Step {self}: {title}"),
        }
    }
}

impl fmt::Display for Place {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { stage, number, total } = self;
        stage.iter().try_for_each(|stage| write!(f, "{stage} "))?;
        write!(f, "{number}/{total}")
    }
}

impl Stage {
    fn uses(&self) -> impl Iterator<Item = usize> {
        let from = match self.from {
            From::Stage(index) => Some(index),
            _ => None,
        };
        from.into_iter().chain(self.origins.iter().flatten().filter_map(|origin| match origin {
            Origin::Stage(index) => Some(*index),
            Origin::Image(_) => None,
        }))
    }
}

/// A stage before anybody looked what its names mean.
struct Outline {
    name: Option<String>,
    from: Instruction,
    image: String,
    image_position: Position,
    instructions: Vec<Instruction>,
}

impl Outline {
    fn new(
        from: Instruction,
        arguments: &BTreeMap<String, String>,
        before: &[Outline],
    ) -> Result<Self, DockerfileError> {
        let Kind::From { flags, image, image_position, stage } = &from.kind else {
            return Err(DockerfileError::new(&from.position, "a stage begins with `FROM`"));
        };
        let substitute = |word: &str, position: &Position| {
            let lookup = |name: &str| arguments.get(name).cloned().or_else(|| platform_argument(name));
            expand(word, from.escape, &lookup).map_err(|message| DockerfileError::new(position, message))
        };
        for Flag { name, value, position } in flags {
            let platform = substitute(value.as_deref().unwrap_or_default(), position)?;
            if name != "platform" {
                return Err(DockerfileError::new(position, format!("`FROM` has no flag `--{name}`")));
            }
            if !matches!(platform.as_str(), "linux/amd64" | "linux/x86_64" | "amd64" | "linux") {
                let message = format!("platform `{platform}` cannot be built here, only `linux/amd64`");
                return Err(DockerfileError::new(position, message));
            }
        }
        let (name, image_position) = (stage.clone(), image_position.clone());
        if let Some(name) = &name
            && before.iter().any(|outline| outline.name.as_ref() == Some(name))
        {
            return Err(DockerfileError::new(&from.position, format!("there are two stages named `{name}`")));
        }
        let image_name = substitute(image, &image_position)?;
        if image_name.is_empty() {
            let message = format!("`{image}` stands for nothing: its argument is empty");
            return Err(DockerfileError::new(&image_position, message));
        }
        Ok(Self { name, from, image: image_name, image_position, instructions: Vec::new() })
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
    expand(default, instruction.escape, &|name| known.get(name).cloned())
        .map(Some)
        .map_err(|message| DockerfileError::new(&instruction.position, message))
}

/// Finds what names mean, stage by stage.
struct Linker<'a> {
    outlines: &'a [Outline],
    images: &'a [&'a str],
    given: Given<'a>,
    /// Variables at the end of the stages so far, without those of their base images, which nobody knows yet.
    scopes: Vec<Scope>,
}

impl Linker<'_> {
    fn stage(&mut self, index: usize) -> Result<(From, Vec<Vec<Origin>>), DockerfileError> {
        let outline = &self.outlines[index];
        let from = self.from(index)?;
        let mut scope = match from {
            From::Stage(parent) => self.scopes[parent].clone(),
            _ => Scope::default(),
        };
        let mut origins = Vec::with_capacity(outline.instructions.len());
        for instruction in &outline.instructions {
            // A mistake in a value is reported by the plan, which knows the base's variables as well.
            let _ = scope.see(&instruction.kind, instruction.escape, self.given);
            origins.push(self.origins(index, instruction, &scope)?);
        }
        self.scopes.push(scope);
        Ok((from, origins))
    }

    fn from(&self, index: usize) -> Result<From, DockerfileError> {
        let Outline { image, image_position, .. } = &self.outlines[index];
        if image == "scratch" {
            return Ok(From::Scratch);
        }
        if self.images.contains(&image.as_str()) {
            return Ok(From::Image(image.clone()));
        }
        match self.named(image) {
            Some(earlier) if earlier < index => Ok(From::Stage(earlier)),
            // `FROM debian` before `FROM debian AS debian`: the name is an image's as well.
            Some(later) if later > index && self.outlines[later].image != *image => {
                let message = format!("stage `{image}` comes later: a stage can only start from an earlier one");
                Err(DockerfileError::new(image_position, message))
            }
            _ => Ok(From::Image(image.clone())),
        }
    }

    fn origins(&self, index: usize, instruction: &Instruction, scope: &Scope) -> Result<Vec<Origin>, DockerfileError> {
        let (flags, is_run) = match &instruction.kind {
            Kind::Copy { flags, .. } => (flags, false),
            Kind::Run { flags, .. } => (flags, true),
            _ => return Ok(Vec::new()),
        };
        let mut found = Vec::new();
        for Flag { name, value, position } in flags {
            let error = |message: String| DockerfileError::new(position, message);
            let value = value.as_deref().unwrap_or_default();
            let substitute = |word: &str| scope.substitute(word, instruction.escape);
            let from = match (name.as_str(), is_run) {
                ("from", false) => Some(substitute(value).map_err(error)?),
                ("mount", true) => {
                    // As above: other options may need variables of the base.
                    let lenient = |word: &str| match substitute(word) {
                        Err(_) if !word.starts_with("from") => Ok(word.to_owned()),
                        other => other,
                    };
                    let options = MountOptions::parse(value, lenient).map_err(error)?;
                    options.get("from").map(str::to_owned)
                }
                _ => None,
            };
            if let Some(from) = from {
                found.push(self.origin(index, &from).map_err(error)?);
            }
        }
        Ok(found)
    }

    fn origin(&self, index: usize, text: &str) -> Result<Origin, String> {
        if text.is_empty() {
            return Err("`from` names neither a stage nor an image".to_owned());
        }
        if self.images.contains(&text) {
            return Ok(Origin::Image(text.to_owned()));
        }
        let number = text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().unwrap_or(usize::MAX));
        match number.or_else(|| self.named(text)) {
            Some(stage) if stage < index => Ok(Origin::Stage(stage)),
            Some(stage) if stage == index => {
                Err(format!("`{text}` is this stage itself: it can only use earlier ones"))
            }
            Some(stage) if stage < self.outlines.len() => {
                Err(format!("stage `{text}` comes later: a stage can only take files from an earlier one"))
            }
            Some(_) => Err(format!("there is no stage {text}: they are counted from 0, and this one is {index}")),
            None => match self.nearly(index, text) {
                Some(name) => Err(format!("no stage is named `{text}`, did you mean `{name}`")),
                None => Ok(Origin::Image(text.to_owned())),
            },
        }
    }

    fn named(&self, name: &str) -> Option<usize> {
        let name = name.to_ascii_lowercase();
        self.outlines.iter().position(|outline| outline.name.as_ref() == Some(&name))
    }

    /// An earlier stage that is one slip of the finger away from a name which cannot be more than a name.
    fn nearly(&self, index: usize, text: &str) -> Option<&str> {
        let lower = text.to_ascii_lowercase();
        let names = self.outlines[..index].iter().filter_map(|outline| outline.name.as_deref());
        let mut near = names.filter(|name| name.len() > 2 && one_edit_apart(name, &lower));
        near.next().filter(|_| !text.contains(['/', ':', '@', '.']))
    }
}

//! A recipe and its facts to steps.
//!
//! The fingerprint of a step holds exactly what its result depends on besides the layers below it:
//!
//! | step | fingerprint |
//! |---|---|
//! | RUN | the command line, the whole environment, working directory, user, network, names of the secrets |
//! | COPY | for each file: destination, digest, mode; owner and mode flags |
//! | WORKDIR | the path |
//!
//! The environment of a RUN contains the build arguments declared so far, so an ARG that comes later, or that is not
//! declared at all, changes nothing. A secret's *value* is deliberately left out: a rotated token must not rebuild
//! every image that was built with it.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::ImageConfig;
use crate::copy::{self, ContextFile, CopyItem, CopySource};
use crate::error::DockerfileError;
use crate::expand::{expand, expand_body};
use crate::instruction::{Command, Flag, Heredoc, Instruction, Kind};
use crate::key::{KeyHasher, LayerKey};
use crate::recipe::{Recipe, platform_argument};

/// All that a plan depends on besides the recipe.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Of the image that the recipe starts from.
    pub base: ImageConfig,
    pub build_args: BTreeMap<String, String>,
    pub context: Vec<ContextFile>,
    pub secret_names: Vec<String>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    pub steps: Vec<Step>,
    /// After the last instruction.
    pub config: ImageConfig,
}

/// One layer to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    /// Place among all instructions, FROM being 1; for the log.
    pub number: usize,
    /// The instruction on one line, for the log.
    pub title: String,
    pub fingerprint: LayerKey,
    pub action: Action,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Run {
        argv: Vec<String>,
        /// Without secrets and without the host's own settings, which the builder adds.
        env: Vec<(String, String)>,
        workdir: String,
        user: Option<String>,
        network: bool,
    },
    Copy {
        items: Vec<CopyItem>,
        /// `--chown`, as written.
        owner: Option<String>,
        /// `--chmod`.
        mode: Option<u32>,
    },
    /// `COPY --from=image`.
    CopyFromImage {
        image: String,
        sources: Vec<String>,
        dest: String,
        dest_is_folder: bool,
        owner: Option<String>,
        mode: Option<u32>,
    },
    /// Makes a folder where there is none.
    MakeFolder { path: String },
}

/// See the crate's head. Solving twice gives the same plan.
pub fn plan(recipe: &Recipe, facts: &Facts) -> Result<Plan, DockerfileError> {
    let mut planner = Planner {
        facts,
        recipe,
        config: facts.base.clone(),
        arguments: BTreeMap::new(),
        declared: BTreeSet::new(),
        steps: Vec::new(),
    };
    for (index, instruction) in recipe.instructions.iter().enumerate() {
        planner
            .instruction(index + 2, instruction)
            .map_err(|message| DockerfileError::new(&instruction.position, message))?;
    }
    Ok(Plan { steps: planner.steps, config: planner.config })
}

struct Planner<'a> {
    facts: &'a Facts,
    recipe: &'a Recipe,
    config: ImageConfig,
    /// Build arguments in scope that have a value.
    arguments: BTreeMap<String, String>,
    declared: BTreeSet<String>,
    steps: Vec<Step>,
}

impl Planner<'_> {
    fn instruction(&mut self, number: usize, instruction: &Instruction) -> Result<(), String> {
        match &instruction.kind {
            Kind::From { .. } => return Err("a second `FROM` is not supported yet".to_owned()),
            Kind::Run { flags, command, heredocs } => {
                let action = self.run(flags, command, heredocs)?;
                self.push(number, instruction, action);
            }
            Kind::Copy { flags, sources, dest, heredocs } => {
                let action = self.copy("COPY", flags, sources, dest, heredocs)?;
                self.push(number, instruction, action);
            }
            Kind::Add { flags, sources, dest, heredocs } => {
                refuse_remote_and_archives(sources)?;
                let action = self.copy("ADD", flags, sources, dest, heredocs)?;
                self.push(number, instruction, action);
            }
            Kind::Env(pairs) => {
                // All values of one ENV see the variables as they were before it.
                let values: Vec<_> = pairs.iter().map(|(_, value)| self.substitute(value)).collect::<Result<_, _>>()?;
                for ((name, _), value) in pairs.iter().zip(values) {
                    self.config.set_env(&self.substitute(name)?, &value);
                }
            }
            Kind::Arg(arguments) => {
                for (name, default) in arguments {
                    self.argument(name, default.as_deref())?;
                }
            }
            Kind::Workdir(path) => {
                let path = copy::absolute(&self.substitute(path)?, self.workdir());
                self.config.workdir = Some(path.clone());
                self.push(number, instruction, Action::MakeFolder { path });
            }
            Kind::User(user) => self.config.user = Some(self.substitute(user)?),
            Kind::Shell(words) => self.config.shell = Some(words.clone()),
            Kind::Entrypoint(command) => {
                // A base's CMD are arguments of the base's ENTRYPOINT; a new one starts without them.
                self.config.entrypoint = self.argv(command);
                self.config.cmd = Vec::new();
            }
            Kind::Cmd(command) => self.config.cmd = self.argv(command),
            Kind::Label(pairs) => {
                for (name, value) in pairs {
                    let (name, value) = (self.substitute(name)?, self.substitute(value)?);
                    self.config.labels.insert(name, value);
                }
            }
            Kind::Expose(ports) => {
                for port in ports {
                    let port = self.substitute(port)?;
                    self.config.exposed_ports.insert(port);
                }
            }
            Kind::Volume(paths) => {
                for path in paths {
                    let path = self.substitute(path)?;
                    self.config.volumes.insert(path);
                }
            }
            Kind::StopSignal(signal) => self.config.stop_signal = Some(self.substitute(signal)?),
            Kind::Healthcheck(_) | Kind::Maintainer(_) => {}
        }
        Ok(())
    }

    fn push(&mut self, number: usize, instruction: &Instruction, action: Action) {
        let fingerprint = fingerprint(&action, self.facts);
        self.steps.push(Step { number, title: instruction.text.clone(), fingerprint, action });
    }

    fn run(&self, flags: &[Flag], command: &Command, heredocs: &[Heredoc]) -> Result<Action, String> {
        let mut network = true;
        for Flag { name, value } in flags {
            match (name.as_str(), value.as_deref()) {
                ("network", Some("default")) => {}
                ("network", Some("none")) => network = false,
                ("mount", Some(value)) => return Err(format!("`RUN --mount={value}` is not supported yet")),
                _ => return Err(format!("`RUN --{name}` is not supported")),
            }
        }
        let argv = match (command, heredocs) {
            (Command::Exec(words), _) if words.is_empty() => return Err("`RUN []` has no command".to_owned()),
            (Command::Exec(words), _) => words.clone(),
            (Command::Shell(script), []) => self.config.shell_argv(script),
            (Command::Shell(script), [only]) if script.starts_with("<<") && !script.contains(char::is_whitespace) => {
                script_argv(&self.config, &only.body)
            }
            (Command::Shell(script), heredocs) => {
                // The shell reads here-documents itself.
                let bodies: String = heredocs.iter().map(|doc| format!("\n{}{}", doc.body, doc.name)).collect();
                self.config.shell_argv(&format!("{script}{bodies}\n"))
            }
        };
        let mut env: Vec<(String, String)> = self
            .arguments
            .iter()
            .filter(|(name, _)| self.config.env(name).is_none())
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        env.extend(self.config.env.iter().cloned());
        Ok(Action::Run { argv, env, workdir: self.workdir().to_owned(), user: self.config.user.clone(), network })
    }

    fn copy(
        &self,
        instruction: &str,
        flags: &[Flag],
        sources: &[String],
        dest: &str,
        heredocs: &[Heredoc],
    ) -> Result<Action, String> {
        let (mut from, mut owner, mut mode) = (None, None, None);
        for Flag { name, value } in flags {
            let value = self.substitute(value.as_deref().unwrap_or_default())?;
            match name.as_str() {
                "chown" => owner = Some(value),
                "chmod" => mode = Some(octal(&value)?),
                // Only says that the layer does not depend on the ones below, which changes no content.
                "link" => {}
                "from" if instruction == "COPY" => from = Some(value),
                _ => return Err(format!("`{instruction} --{name}` is not supported yet")),
            }
        }
        let dest = self.substitute(dest)?;
        let mut inline = Vec::new();
        let mut files = Vec::new();
        for source in sources {
            // A here-document is known by its name; quotes around it only turn substitution off.
            let bare: String = source.chars().filter(|c| !matches!(c, '\'' | '"')).collect();
            let is_it = |doc: &&Heredoc| bare.trim_start_matches("<<").trim_start_matches('-') == doc.name;
            match heredocs.iter().find(is_it).filter(|_| bare.starts_with("<<")) {
                Some(doc) if doc.expand => inline.push((doc.name.clone(), self.substitute_body(&doc.body)?)),
                Some(doc) => inline.push((doc.name.clone(), doc.body.clone())),
                None => files.push(self.substitute(source)?),
            }
        }
        if let Some(image) = from {
            let dest_is_folder = dest.ends_with('/') || files.len() > 1;
            let dest = copy::absolute(&dest, self.workdir());
            return Ok(Action::CopyFromImage { image, sources: files, dest, dest_is_folder, owner, mode });
        }
        let items = copy::resolve(&self.facts.context, &files, &inline, &dest, self.workdir())?;
        Ok(Action::Copy { items, owner, mode })
    }

    /// `ARG name[=default]`: the caller's value, else the default, else the one from before FROM, else the builder's own.
    fn argument(&mut self, name: &str, default: Option<&str>) -> Result<(), String> {
        let value = match (self.facts.build_args.get(name), default) {
            (Some(given), _) => Some(given.clone()),
            (None, Some(default)) => Some(self.substitute(default)?),
            (None, None) => self.recipe.global_arguments.get(name).cloned().or_else(|| platform_argument(name)),
        };
        self.declared.insert(name.to_owned());
        match value {
            Some(value) => self.arguments.insert(name.to_owned(), value),
            None => self.arguments.remove(name),
        };
        Ok(())
    }

    fn workdir(&self) -> &str {
        self.config.workdir.as_deref().unwrap_or("/")
    }

    fn argv(&self, command: &Command) -> Vec<String> {
        match command {
            Command::Exec(words) => words.clone(),
            Command::Shell(script) => self.config.shell_argv(script),
        }
    }

    fn lookup(&self, name: &str) -> Option<String> {
        self.config.env(name).map(str::to_owned).or_else(|| self.arguments.get(name).cloned())
    }

    fn substitute(&self, word: &str) -> Result<String, String> {
        expand(word, '\\', &|name| self.lookup(name))
    }

    fn substitute_body(&self, text: &str) -> Result<String, String> {
        expand_body(text, '\\', &|name| self.lookup(name))
    }
}

/// A here-document that is the whole RUN: run by the program that its first line names, else by the shell.
fn script_argv(config: &ImageConfig, body: &str) -> Vec<String> {
    match body.strip_prefix("#!").and_then(|rest| rest.lines().next()) {
        Some(interpreter) => {
            let mut argv: Vec<String> = interpreter.split_whitespace().map(str::to_owned).collect();
            argv.extend(["-c".to_owned(), body.to_owned()]);
            argv
        }
        None => config.shell_argv(body),
    }
}

fn refuse_remote_and_archives(sources: &[String]) -> Result<(), String> {
    const ARCHIVES: [&str; 8] = [".tar", ".tar.gz", ".tgz", ".tar.bz2", ".tbz2", ".tar.xz", ".txz", ".tar.zst"];
    for source in sources {
        if source.contains("://") || source.starts_with("git@") {
            return Err(format!("`ADD {source}`: downloading is not supported yet, use `RUN curl` or `RUN git`"));
        }
        if ARCHIVES.iter().any(|ending| source.ends_with(ending)) {
            return Err(format!("`ADD {source}`: unpacking is not supported yet, use `COPY` and `RUN tar`"));
        }
    }
    Ok(())
}

fn octal(text: &str) -> Result<u32, String> {
    let mode = u32::from_str_radix(text, 8).ok().filter(|mode| *mode <= 0o7777);
    mode.ok_or_else(|| format!("`--chmod={text}`: only an octal mode like `755` is supported"))
}

fn fingerprint(action: &Action, facts: &Facts) -> LayerKey {
    let optional = |value: &Option<String>| value.as_deref().map_or(String::new(), |value| format!("={value}"));
    let mode_text = |mode: &Option<u32>| mode.map_or(String::new(), |mode| format!("{mode:o}"));
    match action {
        Action::Run { argv, env, workdir, user, network } => {
            let mut names: Vec<&String> = facts.secret_names.iter().collect();
            names.sort();
            KeyHasher::new("run")
                .list(argv)
                .list(env.iter().map(|(name, value)| format!("{name}={value}")))
                .field(workdir)
                .field(optional(user))
                .field([u8::from(*network)])
                .list(names)
                .finish()
        }
        Action::Copy { items, owner, mode } => {
            let start = KeyHasher::new("copy").field(optional(owner)).field(mode_text(mode));
            items.iter().fold(start, |hasher, item| copy_item_fields(hasher, item, facts)).finish()
        }
        Action::CopyFromImage { image, sources, dest, dest_is_folder, owner, mode } => {
            KeyHasher::new("copy from image")
                .field(image)
                .list(sources)
                .field(dest)
                .field([u8::from(*dest_is_folder)])
                .field(optional(owner))
                .field(mode_text(mode))
                .finish()
        }
        Action::MakeFolder { path } => KeyHasher::new("folder").field(path).finish(),
    }
}

fn copy_item_fields(hasher: KeyHasher, item: &CopyItem, facts: &Facts) -> KeyHasher {
    let hasher = hasher.field(&item.dest).field(item.name_within_folder.as_deref().unwrap_or_default());
    match &item.source {
        CopySource::Context(index) => {
            let file = &facts.context[*index];
            hasher.field("file").field(&file.digest).field(format!("{:o}", file.mode))
        }
        CopySource::Inline(body) => hasher.field("inline").field(body),
        CopySource::Folder => hasher.field("folder"),
    }
}

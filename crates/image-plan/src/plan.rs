//! A recipe and its facts to steps.
//!
//! The fingerprint of a step holds exactly what its result depends on besides the layers below it:
//!
//! | step | fingerprint |
//! |---|---|
//! | RUN | the command line, the whole environment, working directory, user, network, names of the secrets, its mounts, which volumes it sees where |
//! | COPY, ADD | for each file: destination, digest, mode; owner, mode and exclusion flags; a URL with its checksum |
//! | WORKDIR | the path |
//!
//! The environment of a RUN contains the build arguments declared so far, so an ARG that comes later, or that is not
//! declared at all, changes nothing. A secret's *value* is deliberately left out: a rotated token must not rebuild
//! every image that was built with it. So is what a cache mount or a volume holds.
//!
//! What a step takes from another stage, an image or a URL without a checksum is known only when the build comes to it:
//! the plan names it ([`Step::inputs`]), the builder finds its identity, and [`Step::cause`] makes one key of both.

use std::collections::{BTreeMap, BTreeSet};

use crate::config::ImageConfig;
use crate::copy::{self, ContextFile, ContextPart, CopyItem, Wanted};
use crate::error::{DockerfileError, Position};
use crate::fingerprint::fingerprint;
use crate::instruction::{Command, Flag, Heredoc, Instruction, Kind};
use crate::key::{KeyHasher, LayerKey};
use crate::mode::ModeChange;
use crate::mount::{MountOptions, Owned, Sharing, VolumeMount};
use crate::recipe::{From, Origin, Place, Recipe};
use crate::scope::{Given, Scope, is_proxy_argument};

/// All that a plan depends on besides the recipe.
#[derive(Debug, Clone, Default)]
pub struct Facts {
    /// Of the images that stages start from, by the name in FROM.
    pub bases: BTreeMap<String, ImageConfig>,
    pub build_args: BTreeMap<String, String>,
    pub context: Vec<ContextFile>,
    pub secret_names: Vec<String>,
    /// Seen by every RUN, in the order in which they are mounted.
    pub volumes: Vec<VolumeMount>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Plan {
    /// Those that are needed, in the order to build them in. The last is the image.
    pub stages: Vec<StagePlan>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StagePlan {
    /// In the recipe.
    pub index: usize,
    pub from: From,
    pub steps: Vec<Step>,
    /// Instructions that make no layer.
    pub settings: Vec<Setting>,
    /// After the last instruction.
    pub config: ImageConfig,
}

/// An instruction that changes nothing but the configuration or the variables: `ENV`, `USER`, `LABEL`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Setting {
    pub place: Place,
    /// The instruction on one line, for the log.
    pub title: String,
}

/// One layer to be made.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Step {
    pub place: Place,
    /// The instruction on one line, for the log.
    pub title: String,
    pub position: Position,
    pub fingerprint: LayerKey,
    /// What else its result depends on.
    pub inputs: Vec<Input>,
    pub action: Action,
}

/// Something whose identity is known only when the build comes to it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Input {
    Origin(Origin),
    /// A URL without a checksum.
    Download(String),
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    Run {
        argv: Vec<String>,
        /// Without secrets and without the host's own settings, which the builder adds.
        env: Vec<(String, String)>,
        /// Proxies given as build arguments: seen by the program and in no key.
        unkeyed_env: Vec<(String, String)>,
        workdir: String,
        user: Option<String>,
        network: bool,
        mounts: Vec<Mount>,
    },
    Copy {
        items: Vec<CopyItem>,
        /// `--chown`, as written.
        owner: Option<String>,
        /// `--chmod`.
        mode: Option<ModeChange>,
    },
    /// `COPY --from=`.
    CopyFrom(CopyFrom),
    /// Makes a folder where there is none.
    MakeFolder { path: String },
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CopyFrom {
    pub origin: Origin,
    /// Paths or patterns in the origin.
    pub sources: Vec<String>,
    /// Absolute.
    pub dest: String,
    pub dest_is_folder: bool,
    pub exclude: Vec<String>,
    pub owner: Option<String>,
    pub mode: Option<ModeChange>,
}

/// Visible while one RUN runs; targets are absolute.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mount {
    Cache {
        id: String,
        target: String,
        sharing: Sharing,
        owned: Owned,
        read_only: bool,
    },
    Secret {
        id: String,
        /// Where its file is.
        target: Option<String>,
        /// The variable that holds it.
        env: Option<String>,
        owned: Owned,
    },
    /// Files of the build context; writes are thrown away.
    Context {
        part: ContextPart,
        target: String,
        writable: bool,
    },
    /// Files of a stage or an image; writes are thrown away.
    Origin {
        origin: Origin,
        source: String,
        target: String,
        writable: bool,
    },
    Tmpfs {
        target: String,
        size_bytes: Option<u64>,
    },
}

impl StagePlan {
    /// The settings between the step before the `next`-th instruction and that instruction; with none, those at the end.
    pub fn settings_before(&self, next: Option<&Step>) -> impl Iterator<Item = &Setting> {
        let end = next.map_or(usize::MAX, |step| step.place.number);
        let earlier = self.steps.iter().map(|step| step.place.number).filter(move |number| *number < end);
        let begin = earlier.max().unwrap_or(0);
        self.settings.iter().filter(move |setting| (begin..end).contains(&setting.place.number))
    }
}

impl Plan {
    /// The stage that is the image.
    pub fn last(&self) -> Option<&StagePlan> {
        self.stages.last()
    }
}

impl Plan {
    /// The stages whose files have to be on disk to make the last one: itself, what it starts from, and what its missing
    /// steps take files from. `is_missing` answers for a stage's index and the place of a step in its list.
    ///
    /// A stage that only made a file which was copied out long ago need not be there to change a later line.
    pub fn stages_to_make(&self, is_missing: &dyn Fn(usize, usize) -> bool) -> BTreeSet<usize> {
        let mut wanted = BTreeSet::new();
        // Later stages never serve earlier ones, so one pass from the end sees each after all that want it.
        for (place, stage) in self.stages.iter().enumerate().rev() {
            if place + 1 == self.stages.len() {
                wanted.insert(stage.index);
            }
            if !wanted.contains(&stage.index) {
                continue;
            }
            if let From::Stage(parent) = stage.from {
                wanted.insert(parent);
            }
            let missing = stage.steps.iter().enumerate().filter(|(at, _)| is_missing(stage.index, *at));
            wanted.extend(missing.flat_map(|(_, step)| &step.inputs).filter_map(|input| match input {
                Input::Origin(Origin::Stage(origin)) => Some(*origin),
                _ => None,
            }));
        }
        wanted
    }
}

impl Step {
    /// The fingerprint together with the identities of [`Step::inputs`], in their order.
    pub fn cause(&self, identities: &[String]) -> LayerKey {
        match identities {
            [] => self.fingerprint.clone(),
            _ => KeyHasher::new("inputs").field(self.fingerprint.as_str()).list(identities).finish(),
        }
    }
}

/// See the crate's head. Solving twice gives the same plan.
pub fn plan(recipe: &Recipe, facts: &Facts) -> Result<Plan, DockerfileError> {
    let mut planned: BTreeMap<usize, (StagePlan, Scope)> = BTreeMap::new();
    for index in recipe.needed() {
        let stage = &recipe.stages[index];
        let scope = match &stage.from {
            From::Scratch => Scope::default(),
            From::Image(name) => {
                Scope { config: facts.bases.get(name).cloned().unwrap_or_default(), ..Scope::default() }
            }
            // Its arguments are inherited together with its configuration.
            From::Stage(parent) => planned.get(parent).map(|(_, scope)| scope.clone()).unwrap_or_default(),
        };
        let given = Given { build_args: &facts.build_args, global: &recipe.global_arguments };
        let mut planner = Planner { facts, given, scope, escape: '\\', steps: Vec::new(), settings: Vec::new() };
        for (number, (instruction, origins)) in stage.instructions.iter().zip(&stage.origins).enumerate() {
            planner.instruction(recipe.place(index, number + 2), instruction, origins)?;
        }
        let Planner { scope, steps, settings, .. } = planner;
        let config = scope.config.clone();
        let plan = StagePlan { index, from: stage.from.clone(), steps, settings, config };
        planned.insert(index, (plan, scope));
    }
    Ok(Plan { stages: planned.into_values().map(|(plan, _)| plan).collect() })
}

/// A sentence, with its place where that is not simply the instruction.
struct Mistake(String, Option<Position>);

impl std::convert::From<String> for Mistake {
    fn from(message: String) -> Self {
        Self(message, None)
    }
}

struct Planner<'a> {
    facts: &'a Facts,
    given: Given<'a>,
    scope: Scope,
    /// Of the instruction at hand.
    escape: char,
    steps: Vec<Step>,
    settings: Vec<Setting>,
}

impl Planner<'_> {
    fn instruction(
        &mut self,
        place: Place,
        instruction: &Instruction,
        origins: &[Origin],
    ) -> Result<(), DockerfileError> {
        self.escape = instruction.escape;
        let action = self.action(instruction, origins).map_err(|Mistake(message, position)| {
            DockerfileError::new(position.as_ref().unwrap_or(&instruction.position), message)
        })?;
        let title = instruction.text.clone();
        match action {
            Some(action) => self.steps.push(Step {
                place,
                title,
                position: instruction.position.clone(),
                fingerprint: fingerprint(&action, self.facts),
                inputs: inputs(&action),
                action,
            }),
            None => self.settings.push(Setting { place, title }),
        }
        Ok(())
    }

    /// Takes in what the instruction changes; answers with the layer that it makes, if any.
    fn action(&mut self, instruction: &Instruction, origins: &[Origin]) -> Result<Option<Action>, Mistake> {
        match &instruction.kind {
            Kind::From { .. } => return Err("`FROM` inside of a stage".to_owned().into()),
            Kind::Run { flags, command, heredocs } => return self.run(flags, command, heredocs, origins).map(Some),
            Kind::Copy { flags, sources, dest, heredocs } => {
                return self.copy(flags, sources, dest, heredocs, origins.first()).map(Some);
            }
            Kind::Add { flags, sources, dest, heredocs } => {
                return self.add(flags, sources, dest, heredocs).map(Some);
            }
            kind @ (Kind::Env(_) | Kind::Arg(_)) => self.scope.see(kind, self.escape, self.given)?,
            Kind::Workdir(path) => {
                let path = copy::absolute(&self.substitute(path)?, self.workdir());
                self.scope.config.workdir = Some(path.clone());
                return Ok(Some(Action::MakeFolder { path }));
            }
            kind => self.configure(kind)?,
        }
        Ok(None)
    }

    /// Instructions that change nothing but the configuration.
    fn configure(&mut self, kind: &Kind) -> Result<(), String> {
        match kind {
            Kind::User(user) => self.scope.config.user = Some(self.substitute(user)?),
            Kind::Shell(words) => self.scope.config.shell = Some(words.clone()),
            Kind::Entrypoint(command) => {
                // A base's CMD are arguments of the base's ENTRYPOINT; a new one starts without them.
                self.scope.config.entrypoint = self.argv(command);
                self.scope.config.cmd = Vec::new();
            }
            Kind::Cmd(command) => self.scope.config.cmd = self.argv(command),
            Kind::Label(pairs) => {
                for (name, value) in pairs {
                    let (name, value) = (self.substitute(name)?, self.substitute(value)?);
                    self.scope.config.labels.insert(name, value);
                }
            }
            Kind::Expose(ports) => {
                for port in ports {
                    let port = self.substitute(port)?;
                    self.scope.config.exposed_ports.insert(port);
                }
            }
            Kind::Volume(paths) => {
                for path in paths {
                    let path = self.substitute(path)?;
                    self.scope.config.volumes.insert(path);
                }
            }
            Kind::StopSignal(signal) => self.scope.config.stop_signal = Some(self.substitute(signal)?),
            // A health check is for a daemon that runs containers by itself, a maintainer for people.
            _ => {}
        }
        Ok(())
    }

    fn run(
        &self,
        flags: &[Flag],
        command: &Command,
        heredocs: &[Heredoc],
        origins: &[Origin],
    ) -> Result<Action, Mistake> {
        let mut network = true;
        let mut mounts = Vec::new();
        let mut origins = origins.iter();
        for Flag { name, value, position } in flags {
            let at = |message: String| Mistake(message, Some(position.clone()));
            match (name.as_str(), value.as_deref()) {
                ("network", Some("default")) => {}
                ("network", Some("none")) => network = false,
                ("mount", Some(value)) => mounts.extend(self.mount(value, &mut origins).map_err(at)?),
                (name, value) => {
                    let shown = value.map_or_else(|| name.to_owned(), |value| format!("{name}={value}"));
                    return Err(at(format!("`RUN --{shown}` is not supported")));
                }
            }
        }
        let config = &self.scope.config;
        let argv = match (command, heredocs) {
            (Command::Exec(words), _) if words.is_empty() => {
                return Err("`RUN []` has no command".to_owned().into());
            }
            (Command::Exec(words), _) => words.clone(),
            (Command::Shell(script), []) => config.shell_argv(script),
            (Command::Shell(script), [only]) if script.starts_with("<<") && !script.contains(char::is_whitespace) => {
                script_argv(config, &only.body)
            }
            (Command::Shell(script), heredocs) => {
                // The shell reads here-documents itself.
                let bodies: String = heredocs.iter().map(|doc| format!("\n{}{}", doc.body, doc.name)).collect();
                config.shell_argv(&format!("{script}{bodies}\n"))
            }
        };
        let arguments = self.scope.arguments.iter().filter(|(name, _)| config.env(name).is_none());
        let mut env: Vec<(String, String)> = arguments.map(|(name, value)| (name.clone(), value.clone())).collect();
        env.extend(config.env.iter().cloned());
        let proxies = self.facts.build_args.iter().filter(|(name, _)| is_proxy_argument(name));
        let unkeyed_env = proxies
            .filter(|(name, _)| !env.iter().any(|(known, _)| known == *name))
            .map(|(name, value)| (name.clone(), value.clone()))
            .collect();
        let (workdir, user) = (self.workdir().to_owned(), config.user.clone());
        Ok(Action::Run { argv, env, unkeyed_env, workdir, user, network, mounts })
    }

    /// None for a secret that is not there and need not be.
    fn mount(&self, value: &str, origins: &mut std::slice::Iter<'_, Origin>) -> Result<Option<Mount>, String> {
        let options = MountOptions::parse(value, |word| self.substitute(word))?;
        let workdir = self.workdir();
        Ok(Some(match options.kind() {
            "cache" => {
                let target = options.required_target(workdir)?;
                let id = options.get("id").unwrap_or(&target).to_owned();
                let (sharing, owned) = (options.sharing()?, options.owned(0o755)?);
                Mount::Cache { id, target, sharing, owned, read_only: options.flag("readonly")? }
            }
            "secret" => return self.secret(&options),
            "tmpfs" => Mount::Tmpfs { target: options.required_target(workdir)?, size_bytes: options.size()? },
            _ => {
                let target = options.required_target(workdir)?;
                let source = options.get("source").unwrap_or("/");
                let writable = options.flag("readwrite")?;
                match options.get("from") {
                    None => {
                        let part = copy::part(&self.facts.context, source).map_err(unsent)?;
                        Mount::Context { part, target, writable }
                    }
                    Some(from) => {
                        let missing = || format!("`from={from}` is neither a stage nor an image");
                        let origin = origins.next().cloned().ok_or_else(missing)?;
                        Mount::Origin { origin, source: copy::absolute(source, "/"), target, writable }
                    }
                }
            }
        }))
    }

    fn secret(&self, options: &MountOptions) -> Result<Option<Mount>, String> {
        let env = options.get("env").map(str::to_owned);
        let target = options.target(self.workdir())?;
        let named = options.get("id").or(options.get("source")).map(str::to_owned);
        let from_target = || Some(target.as_ref()?.rsplit('/').next()?.to_owned());
        let id = named.or_else(from_target).ok_or("`--mount=type=secret` needs an `id`")?;
        let is_name = id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'_' | b'-' | b'.'));
        if id.is_empty() || !is_name || id.starts_with('.') {
            return Err(format!("`id={id}`: a secret is known by the name of its variable"));
        }
        if !self.facts.secret_names.contains(&id) {
            if options.flag("required")? {
                return Err(format!("the build has no secret `{id}`: add a secret with a variable of that name"));
            }
            return Ok(None);
        }
        // A variable alone needs no file.
        let target = match (target, &env) {
            (None, Some(_)) => None,
            (None, None) => Some(format!("/run/secrets/{id}")),
            (target, _) => target,
        };
        Ok(Some(Mount::Secret { id, target, env, owned: options.owned(0o400)? }))
    }

    fn copy(
        &self,
        flags: &[Flag],
        sources: &[String],
        dest: &str,
        heredocs: &[Heredoc],
        origin: Option<&Origin>,
    ) -> Result<Action, Mistake> {
        let CopyFlags { owner, mode, exclude, .. } = self.copy_flags("COPY", flags)?;
        let dest = self.substitute(dest)?;
        let (inline, files) = self.sources(sources, heredocs)?;
        let workdir = self.workdir();
        if let Some(origin) = origin {
            if !inline.is_empty() {
                return Err("`COPY --from` takes no here-document".to_owned().into());
            }
            let dest_is_folder = copy::is_folder_name(&dest);
            let dest = copy::absolute(&dest, workdir);
            if files.len() > 1 && !dest_is_folder {
                return Err(format!("several sources need a folder as destination: write `{dest}/`").into());
            }
            let sources = files.iter().map(|source| copy::absolute(source, "/")).collect();
            let origin = origin.clone();
            return Ok(Action::CopyFrom(CopyFrom { origin, sources, dest, dest_is_folder, exclude, owner, mode }));
        }
        let wanted = Wanted {
            sources: &files,
            inline: &inline,
            urls: &[],
            dest: &dest,
            workdir,
            exclude: &exclude,
            unpack_files: false,
            unpack_urls: false,
        };
        let items = copy::resolve(&self.facts.context, &wanted)?;
        Ok(Action::Copy { items, owner, mode })
    }

    fn add(&self, flags: &[Flag], sources: &[String], dest: &str, heredocs: &[Heredoc]) -> Result<Action, Mistake> {
        let CopyFlags { owner, mode, exclude, checksum, unpack } = self.copy_flags("ADD", flags)?;
        let dest = self.substitute(dest)?;
        let (inline, sources) = self.sources(sources, heredocs)?;
        let (urls, files): (Vec<String>, Vec<String>) = sources.into_iter().partition(|source| is_remote(source));
        if let Some(git) = urls.iter().find(|url| is_git(url)) {
            return Err(format!("`ADD {git}`: git repositories are not supported, use `RUN git clone`").into());
        }
        if let Some(other) = urls.iter().find(|url| !url.starts_with("https://") && !url.starts_with("http://")) {
            return Err(format!("`ADD {other}`: only `https` and `http` can be downloaded from").into());
        }
        if checksum.is_some() && (urls.len() != 1 || !files.is_empty() || !inline.is_empty()) {
            return Err("`ADD --checksum` is for exactly one URL".to_owned().into());
        }
        let urls: Vec<_> = urls.into_iter().map(|url| (url, checksum.clone())).collect();
        let wanted = Wanted {
            sources: &files,
            inline: &inline,
            urls: &urls,
            dest: &dest,
            workdir: self.workdir(),
            exclude: &exclude,
            unpack_files: unpack.unwrap_or(true),
            unpack_urls: unpack.unwrap_or(false),
        };
        let items = copy::resolve(&self.facts.context, &wanted).map_err(unsent)?;
        Ok(Action::Copy { items, owner, mode })
    }

    fn copy_flags(&self, instruction: &str, flags: &[Flag]) -> Result<CopyFlags, Mistake> {
        let mut found = CopyFlags::default();
        for Flag { name, value, position } in flags {
            let at = |message: String| Mistake(message, Some(position.clone()));
            let value = self.substitute(value.as_deref().unwrap_or_default()).map_err(at)?;
            match (name.as_str(), instruction) {
                ("chown", _) => found.owner = Some(value),
                ("chmod", _) => found.mode = Some(ModeChange::parse(&value).map_err(at)?),
                ("exclude", _) => found.exclude.push(value),
                // Only says that the layer does not depend on the ones below, which changes no content.
                ("link", _) => {}
                // Looked at already: see `Stage::origins`.
                ("from", "COPY") => {}
                ("checksum", "ADD") if is_sha256(&value) => found.checksum = Some(value.to_ascii_lowercase()),
                ("checksum", "ADD") => {
                    return Err(at(format!("`--checksum={value}`: not `sha256:` and 64 hexadecimal digits")));
                }
                ("unpack", "ADD") => match value.as_str() {
                    "" | "true" => found.unpack = Some(true),
                    "false" => found.unpack = Some(false),
                    _ => return Err(at(format!("`--unpack={value}` is neither `true` nor `false`"))),
                },
                _ => return Err(at(format!("`{instruction} --{name}` is not supported"))),
            }
        }
        Ok(found)
    }

    /// Here-documents by name with their text, and the other sources.
    #[expect(clippy::type_complexity, reason = "two lists")]
    fn sources(
        &self,
        sources: &[String],
        heredocs: &[Heredoc],
    ) -> Result<(Vec<(String, String)>, Vec<String>), String> {
        let mut inline = Vec::new();
        let mut files = Vec::new();
        for source in sources {
            // A here-document is known by its name; quotes around it only turn substitution off.
            let bare: String = source.chars().filter(|c| !matches!(c, '\'' | '"')).collect();
            let is_it = |doc: &&Heredoc| bare.trim_start_matches("<<").trim_start_matches('-') == doc.name;
            match heredocs.iter().find(is_it).filter(|_| bare.starts_with("<<")) {
                Some(doc) if doc.expand => {
                    inline.push((doc.name.clone(), self.scope.substitute_body(&doc.body, self.escape)?));
                }
                Some(doc) => inline.push((doc.name.clone(), doc.body.clone())),
                None => files.push(self.substitute(source)?),
            }
        }
        Ok((inline, files))
    }

    fn workdir(&self) -> &str {
        self.scope.config.workdir.as_deref().unwrap_or("/")
    }

    fn argv(&self, command: &Command) -> Vec<String> {
        match command {
            Command::Exec(words) => words.clone(),
            Command::Shell(script) => self.scope.config.shell_argv(script),
        }
    }

    fn substitute(&self, word: &str) -> Result<String, String> {
        self.scope.substitute(word, self.escape)
    }
}

#[derive(Default)]
struct CopyFlags {
    owner: Option<String>,
    mode: Option<ModeChange>,
    exclude: Vec<String>,
    checksum: Option<String>,
    unpack: Option<bool>,
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

fn inputs(action: &Action) -> Vec<Input> {
    match action {
        Action::Run { mounts, .. } => {
            let origins = mounts.iter().filter_map(|mount| match mount {
                Mount::Origin { origin, .. } => Some(origin.clone()),
                _ => None,
            });
            origins.map(Input::Origin).collect()
        }
        Action::Copy { items, .. } => {
            let urls = items.iter().filter_map(|item| match &item.source {
                copy::CopySource::Url { url, checksum: None } => Some(url.clone()),
                _ => None,
            });
            urls.map(Input::Download).collect()
        }
        Action::CopyFrom(copy) => vec![Input::Origin(copy.origin.clone())],
        Action::MakeFolder { .. } => Vec::new(),
    }
}

/// The client looks for files to send in COPY only.
fn unsent(message: String) -> String {
    format!("{message}: the client sends the files that a `COPY` of the same Dockerfile names")
}

fn is_remote(source: &str) -> bool {
    source.contains("://") || source.starts_with("git@")
}

fn is_git(url: &str) -> bool {
    let path = url.split(['?', '#']).next().unwrap_or_default();
    url.starts_with("git@") || url.starts_with("git://") || url.starts_with("ssh://") || path.ends_with(".git")
}

fn is_sha256(text: &str) -> bool {
    text.strip_prefix("sha256:").is_some_and(|hex| hex.len() == 64 && hex.bytes().all(|b| b.is_ascii_hexdigit()))
}

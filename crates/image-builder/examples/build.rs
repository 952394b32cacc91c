//! Builds an image from a Dockerfile, for trying the builder by hand:
//! `cargo run -p dorian-image-builder --example build -- Dockerfile`

use std::path::PathBuf;
use std::process::ExitCode;
use std::time::{Duration, Instant};

use clap::Parser;
use container_runtime::{Runtime, RuntimeConfig};
use dorian_image_builder::{BuildRequest, BuilderConfig, CacheUse, ImageBuilder, LogSink};

#[derive(Parser)]
struct Arguments {
    /// The Dockerfile to build.
    dockerfile: PathBuf,
    /// Where layers are kept.
    #[arg(long, default_value = "/var/tmp/dorian-build")]
    data: PathBuf,
    /// `NAME=VALUE` for an ARG; may be repeated.
    #[arg(long = "build-arg")]
    build_args: Vec<String>,
    /// Build every layer again.
    #[arg(long)]
    force: bool,
    /// Seconds.
    #[arg(long)]
    timeout: Option<u64>,
    /// Also prepare the client package of this version (for the image's Python).
    #[arg(long)]
    client: Option<String>,
    #[arg(long, default_value = "3.11")]
    python: String,
}

fn main() -> ExitCode {
    let arguments = Arguments::parse();
    let runtime = match Runtime::start(RuntimeConfig::new(arguments.data.join("runtime"))) {
        Ok(runtime) => runtime,
        Err(error) => {
            eprintln!("{error}");
            return ExitCode::FAILURE;
        }
    };
    let threads = tokio::runtime::Builder::new_multi_thread().enable_all().build();
    let Ok(threads) = threads else { return ExitCode::FAILURE };
    let code = threads.block_on(async {
        let code = match build(&arguments, runtime.clone()).await {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("{error}");
                let mut source = error.source();
                while let Some(cause) = source {
                    eprintln!("  because {cause}");
                    source = cause.source();
                }
                ExitCode::FAILURE
            }
        };
        runtime.shutdown().await;
        code
    });
    drop(threads);
    code
}

async fn build(arguments: &Arguments, runtime: Runtime) -> Result<(), Box<dyn std::error::Error>> {
    let builder = ImageBuilder::new(BuilderConfig::new(&arguments.data), runtime)?;
    let text = std::fs::read_to_string(&arguments.dockerfile)?;
    let request = BuildRequest {
        dockerfile_commands: text.lines().map(str::to_owned).collect(),
        build_args: arguments
            .build_args
            .iter()
            .filter_map(|pair| pair.split_once('='))
            .map(|(name, value)| (name.to_owned(), value.to_owned()))
            .collect(),
        cache: if arguments.force { CacheUse::Replace } else { CacheUse::Use },
        timeout: arguments.timeout.map(Duration::from_secs),
        ..BuildRequest::default()
    };
    let started = Instant::now();
    let logs = LogSink::new(move |log| println!("{:8.3} {}", started.elapsed().as_secs_f64(), log.text));
    let image = builder.build(request, &logs).await?;
    println!("{}", serde_json::to_string_pretty(&image)?);
    if let Some(version) = &arguments.client {
        let layers = builder.ensure_client_layer(version, &arguments.python, &logs).await?;
        println!("client layers: {:?}", layers.iter().map(|key| builder.layer_path(key)).collect::<Vec<_>>());
    }
    println!("took {:.3} s", started.elapsed().as_secs_f64());
    Ok(())
}

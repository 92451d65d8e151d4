//! A host of movers: an agent without a queue, whose actions come from an agent elsewhere.

use super::{failed, lock_state, make_private, not_here, with_causes};
use crate::exit::{CliError, Exit, Outcome};
use crate::reload::{Reloader, SetLogLevel};
use agent::{HsmAgent, Services, configure_mounts};
use cluster::Group;
use cluster::desk::Identity;
use cluster::nats::{HostSource, Watchdog};
use config::agent::{Nats, TransportKind};
use config::{AgentConfig, ClientDevice};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use tokio::signal::unix::{SignalKind, signal};
use tokio::task::JoinHandle;

/// Runs a host of movers until it is drained: by a signal, or by whoever asks its agent for it.
pub(crate) fn run_mover_host(config: AgentConfig, config_file: &Path, set_log_level: SetLogLevel) -> Outcome {
    sys::process::raise_nofile_limit();
    let config_file = std::path::absolute(config_file).map_err(failed("finding the configuration file"))?;
    let Some(nats) = config.nats().cloned() else {
        let what = "a host of movers needs transport { type = \"nats\" }: see docs/hosts.md";
        return Err(CliError::new(Exit::Config, what));
    };
    let _lock = lock_state(&config.state_dir)?;
    make_private(&config.transport.socket_dir)?;
    let lustre = matches!(config.client_device, ClientDevice::Lustre { .. });
    let mounts = configure_mounts(&config).map_err(|error| with_causes(&error))?;
    let mounts = if lustre { mounts.detached_at_the_end() } else { mounts };
    let services = Services::new(config_file.parent().unwrap_or(Path::new("/")).to_path_buf());
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().map_err(failed("starting the runtime"))?;
    let ended = runtime.block_on(async {
        let (source, desk) = source(&config, &nats).await?;
        // Its movers have the socket; the desk has NATS.
        let mut local = config.clone();
        local.transport.kind = TransportKind::Grpc;
        let agent = HsmAgent::new(local, mounts, services, Arc::clone(&source) as _).map_err(not_here)?;
        let agent = Arc::new(agent);
        source.attach(&agent);
        let desk = tokio::spawn(desk.run());
        let reloader = reloader(config, config_file, Arc::clone(&agent), set_log_level);
        let ended = serve(&agent, &source, desk, reloader).await;
        agent.stop().await;
        ended
    });
    runtime.shutdown_background();
    ended
}

/// What feeds the movers, and the source that it fills.
async fn source(config: &AgentConfig, nats: &Nats) -> Result<(Arc<HostSource>, cluster::nats::HostLoop), CliError> {
    let watchdog = Watchdog::start().map_err(failed("starting a watchdog"))?;
    let identity = Identity {
        instance: uuid::Uuid::new_v4().as_u128(),
        name: config.host.name.clone().unwrap_or_else(super::host_name),
        software: format!("sifaka {}", env!("CARGO_PKG_VERSION")),
        groups: config.host.groups.iter().filter_map(|name| Group::new(name)).collect(),
        labels: config.host.labels.iter().map(|(name, text)| format!("{name}={text}")).collect(),
    };
    HostSource::new(nats, identity, Some(watchdog)).await.map_err(|error| with_causes(&error))
}

fn reloader(config: AgentConfig, file: PathBuf, agent: Arc<HsmAgent>, set_log_level: SetLogLevel) -> Arc<Reloader> {
    Arc::new(Reloader {
        file,
        latest: config.clone().into(),
        started: config,
        apply: Box::new(|_| {}),
        agent,
        set_log_level,
    })
}

/// From start to the end of the last action. A second request to end ends it at once.
async fn serve(
    agent: &HsmAgent,
    source: &HostSource,
    mut desk: JoinHandle<Result<(), cluster::nats::NatsError>>,
    reloader: Arc<Reloader>,
) -> Outcome {
    let mut terminate = signal(SignalKind::terminate()).map_err(failed("listening to signals"))?;
    let mut interrupt = signal(SignalKind::interrupt()).map_err(failed("listening to signals"))?;
    let mut hangup = signal(SignalKind::hangup()).map_err(failed("listening to signals"))?;
    agent.start().await.map_err(|error| with_causes(&error))?;
    tracing::info!(pid = std::process::id(), "the host of movers runs");
    let mut asked = false;
    loop {
        tokio::select! {
            ended = &mut desk => return match ended {
                Ok(Ok(())) => Ok(Exit::Ok),
                Ok(Err(error)) => Err(with_causes(&error)),
                Err(error) => Err(not_here(error)),
            },
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
            Some(()) = hangup.recv() => {
                tracing::info!("SIGHUP: reading the configuration again");
                let reloader = Arc::clone(&reloader);
                if let Ok(Err(error)) = tokio::task::spawn_blocking(move || reloader.run()).await {
                    tracing::error!("nothing was changed: {error}");
                }
                continue;
            }
        }
        if asked {
            tracing::warn!("asked to end a second time: what still runs is cancelled");
            desk.abort();
            return Ok(Exit::SomeFailed);
        }
        tracing::info!("asked to end: taking nothing more, finishing what is here");
        asked = true;
        source.drain();
    }
}

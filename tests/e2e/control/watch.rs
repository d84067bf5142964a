//! Looks at the proxies all the time: the epoch that each serves must never go back.

use anyhow::{Result, ensure};
use configsvr::playground::{Playground, http, until};
use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

const PAUSE: Duration = Duration::from_millis(20);

/// A look at work.
pub(crate) struct Watch {
    stop: Arc<AtomicBool>,
    work: JoinHandle<Result<()>>,
}

impl Watch {
    pub(crate) fn start(playground: &Playground) -> Self {
        let admins: Vec<SocketAddr> = playground.proxies().iter().filter_map(|p| p.admin_addr()).collect();
        let stop = Arc::new(AtomicBool::new(false));
        let seen = Arc::clone(&stop);
        let work = std::thread::spawn(move || {
            let mut last = vec![0; admins.len()];
            while !seen.load(Ordering::Relaxed) {
                for (last, admin) in last.iter_mut().zip(&admins) {
                    let epoch = epoch_of(*admin)?;
                    ensure!(
                        epoch >= *last,
                        "verdict of the checker: the proxy at {admin} went back from epoch {last} to {epoch}"
                    );
                    *last = epoch;
                }
                std::thread::sleep(PAUSE);
            }
            Ok(())
        });
        Self { stop, work }
    }

    pub(crate) fn finish(self) -> Result<()> {
        self.stop.store(true, Ordering::Relaxed);
        self.work.join().map_err(|_| anyhow::anyhow!("the watch panicked"))?
    }
}

fn epoch_of(admin: SocketAddr) -> Result<u64> {
    let status = http::get(admin, "/api/v1/topology/status")?.json()?;
    Ok(status["epoch"].as_u64().unwrap_or(0))
}

/// Waits until every proxy serves this epoch or a later one.
pub(crate) fn all_serve(playground: &Playground, epoch: u64) -> Result<()> {
    until(&format!("epoch {epoch} at every proxy"), crate::LIMIT, || {
        for proxy in playground.proxies() {
            let Some(admin) = proxy.admin_addr() else { continue };
            let serving = epoch_of(admin)?;
            if serving < epoch {
                return Ok(Err(format!("{} serves {serving}", proxy.name())));
            }
        }
        Ok(Ok(()))
    })
}

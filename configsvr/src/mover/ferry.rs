//! Brings keys from one server to another by the servers' own means: the source sends, the target takes, and what the target
//! has already wins. What became of a key that nobody answered for is found out before anything else is done about it.
#![expect(clippy::disallowed_methods, reason = "a shell: reads the clock")]

use super::core::Fault;
use super::core::moving::{self, Outcome, Tongue, Way};
use super::core::shown;
use super::line::Line;
use super::{preflight, sweep};
use crate::agent::link::Access;
use cluster::instance::Addr;
use cluster::resp::reply::integer;
use cluster::resp::write;
use std::time::{Duration, Instant};
use tokio::time::sleep;

/// How long the source may wait for each answer of the target: below what we wait for the source's own.
const TIMEOUT_MS: u64 = 3_000;
/// A key whose fate is unclear is tried so often.
const TRIES: u32 = 5;
const TRY_PAUSE: Duration = Duration::from_millis(100);
/// Replicas are asked so long at once, and altogether.
const WAIT_MS: u64 = 500;
const WAIT_MAX: Duration = Duration::from_secs(10);
/// The source's replicas are not waited for longer: what they have not heard comes back with one of them, no more.
const SOURCE_WAIT_MS: u64 = 50;

/// Both ends, and the way between them.
pub(super) struct Ferry {
    pub(super) source: Line,
    pub(super) target: Line,
    way: Way,
    /// Whether there are replicas that should have what was moved, or hear of it: at the source, at the target.
    followed: (bool, bool),
}

impl Ferry {
    /// Finds out how both speak.
    pub(super) async fn new(
        mut source: Line,
        mut target: Line,
        access: &Access,
        followed: (bool, bool),
    ) -> Result<Self, Fault> {
        let (mut here, mut there) = (Vec::new(), Vec::new());
        for word in ["SLOTSMGRTONE", "SLOTSMGRTTAGONE", "MIGRATE"] {
            if preflight::knows(&mut source, word).await? {
                here.push(word);
            }
        }
        for word in ["SLOTSRESTORE", "RESTORE"] {
            if preflight::knows(&mut target, word).await? {
                there.push(word);
            }
        }
        let tongue = Tongue::of(|word| here.contains(&word), |word| there.contains(&word));
        let tongue = tongue.ok_or_else(|| {
            let (source, target) = (source.addr(), target.addr());
            Fault::hopeless(format!(
                "{source} cannot move keys to {target} by itself: it knows neither SLOTSMGRTONE nor MIGRATE, or may not use it, \
                 or {target} not its counterpart; --mode copy needs none of them"
            ))
        })?;
        let Addr::Tcp(at) = target.addr() else {
            let why = format!("{} is no TCP address: a server cannot move keys there", target.addr());
            return Err(Fault::hopeless(why));
        };
        let way = Way {
            tongue,
            host: at.ip().to_string(),
            port: at.port().to_string(),
            timeout_ms: TIMEOUT_MS,
            user: access.user.clone(),
            password: access.password.as_ref().map(|p| p.reveal().to_owned()),
        };
        Ok(Self { source, target, way, followed })
    }

    pub(super) fn tongue(&self) -> Tongue {
        self.way.tongue
    }

    /// Keys come to the target. How many there were.
    pub(super) async fn carry(&mut self, keys: &[&[u8]]) -> Result<u64, Fault> {
        if self.way.tongue == Tongue::Migrate {
            match self.ask(keys).await? {
                Outcome::Moved => return self.settled(keys.len() as u64).await,
                Outcome::Absent => return Ok(0),
                Outcome::Hopeless(why) => return Err(self.hopeless(&why)),
                Outcome::Unclear(why) => self.clear(&why).await?,
                Outcome::Busy | Outcome::Failed(_) => {} // one of them; which, is seen one by one
            }
        }
        let mut moved = 0;
        for key in keys {
            moved += self.carry_one(key).await?;
        }
        self.settled(moved).await
    }

    /// A key that may be at both sides, or at one.
    pub(super) async fn carry_one(&mut self, key: &[u8]) -> Result<u64, Fault> {
        for _ in 0..TRIES {
            if self.has(key).await? {
                return self.forget(key).await;
            }
            match self.ask(&[key]).await? {
                Outcome::Moved => return Ok(1),
                Outcome::Absent => return Ok(0),
                Outcome::Busy => {}
                Outcome::Unclear(why) => {
                    self.clear(&why).await?;
                    sleep(TRY_PAUSE).await;
                }
                Outcome::Hopeless(why) => return Err(self.hopeless(&why)),
                Outcome::Failed(why) => return Err(self.failed(key, &why)),
            }
        }
        Err(self.failed(key, "nobody says what became of it"))
    }

    /// The target's copy wins; the source's goes once a replica of the target has the other.
    async fn forget(&mut self, key: &[u8]) -> Result<u64, Fault> {
        self.followed().await?;
        sweep::unlink(&mut self.source, &[key.to_vec()]).await.map_err(Fault::failed)?;
        Ok(0)
    }

    async fn has(&mut self, key: &[u8]) -> Result<bool, Fault> {
        let said = self.target.done(&[b"EXISTS", key]).await.map_err(Fault::failed)?;
        Ok(integer(&said) == Some(1))
    }

    async fn ask(&mut self, keys: &[&[u8]]) -> Result<Outcome, Fault> {
        let mut request = Vec::new();
        self.way.request(&mut request, keys);
        let said = self.source.ask_all(&request, 1).await.map_err(Fault::failed)?.pop().unwrap_or_default();
        Ok(moving::outcome(&said))
    }

    /// Whatever is still on its way to the target does not arrive any more.
    pub(super) async fn clear(&mut self, why: &str) -> Result<(), Fault> {
        let list = self.target.say(&[b"CLIENT", b"LIST"]).await.map_err(Fault::failed)?;
        let mut killed = 0;
        for id in moving::carriers(&list) {
            // 0, or an error: gone by itself.
            self.target.ask(&[b"CLIENT", b"KILL", b"ID", id.as_bytes()]).await.map_err(Fault::failed)?;
            killed += 1;
        }
        tracing::info!(why, killed, at = %self.target.addr(), "connections by which keys may still come were closed");
        Ok(())
    }

    /// What was moved is at a replica of the target; one of the source has heard that it went, unless it is slow.
    async fn settled(&mut self, moved: u64) -> Result<u64, Fault> {
        if moved > 0 {
            self.followed().await?;
            if self.followed.0 {
                acknowledged(&mut self.source, SOURCE_WAIT_MS).await.map_err(Fault::failed)?;
            }
        }
        Ok(moved)
    }

    /// A replica of the target has all that the target has, if there is one.
    pub(super) async fn followed(&mut self) -> Result<(), Fault> {
        let begun = Instant::now();
        while self.followed.1 {
            if acknowledged(&mut self.target, WAIT_MS).await.map_err(Fault::failed)? > 0 {
                return Ok(());
            }
            if begun.elapsed() > WAIT_MAX {
                let why =
                    format!("no replica of {} has what came there: keys would be lost with it", self.target.addr());
                return Err(Fault::failed(why));
            }
        }
        Ok(())
    }

    /// How large each is, in bytes of memory; 0 where the server does not say so.
    pub(super) async fn sizes(&mut self, keys: &[Vec<u8>]) -> Result<Vec<u64>, Fault> {
        let mut requests = Vec::new();
        keys.iter().for_each(|key| write::request(&mut requests, &[b"MEMORY", b"USAGE", key]));
        let said = self.source.ask_all(&requests, keys.len()).await.map_err(Fault::failed)?;
        Ok(said.iter().map(|raw| integer(raw).unwrap_or(0).max(0) as u64).collect())
    }

    /// How long the slower of both takes for a PING, in milliseconds.
    pub(super) async fn ping(&mut self) -> Result<u64, Fault> {
        let mut longest = 0;
        for line in [&mut self.source, &mut self.target] {
            let begun = Instant::now();
            line.done(&[b"PING"]).await.map_err(Fault::failed)?;
            longest = longest.max(begun.elapsed().as_millis() as u64);
        }
        Ok(longest)
    }

    fn hopeless(&self, why: &str) -> Fault {
        Fault::hopeless(format!("{} -> {}: {why}", self.source.addr(), self.target.addr()))
    }

    fn failed(&self, key: &[u8], why: &str) -> Fault {
        Fault::failed(format!("{} -> {}: {}: {why}", self.source.addr(), self.target.addr(), shown(key)))
    }
}

/// How many replicas, at least one unless time is over, have what is there now. WAIT counts from the last thing that its own
/// connection wrote (Valkey 8, and Redis since 7.2): an empty message is passed on to replicas, and changes nothing.
async fn acknowledged(line: &mut Line, ms: u64) -> Result<i64, String> {
    line.done(&[b"PUBLISH", b"twemslot:moved", b""]).await?;
    let said = line.done(&[b"WAIT", b"1", ms.to_string().as_bytes()]).await?;
    Ok(integer(&said).unwrap_or(0))
}

//! The `control:` section: where the control plane is, and as what this proxy is known there.
#![expect(clippy::disallowed_methods, reason = "a shell: asks the machine for its name")]

use super::secret;
use super::tls;
use super::yaml::{Place, Reader, one_or_many};
use cluster::instance::Addr;
use cluster::tls::Client;
use std::fmt;
use std::net::SocketAddr;

/// More members than a quorum ever has.
const CONFIGSVRS_MAX: usize = 15;
/// Before an address at which TLS is spoken.
pub const HTTPS: &str = "https://";

/// What the proxy knows of the control plane.
#[derive(Clone, PartialEq, Eq)]
pub struct Control {
    /// HOST:PORT each, or https://HOST:PORT; none: the topology is a file, or PUT by somebody.
    pub configsvrs: Vec<String>,
    /// How those of https are met.
    pub tls: Option<Client>,
    pub token: Option<String>,
    /// The same after every restart.
    pub id: String,
    pub zone: String,
    /// Where others reach this proxy: its clients, and its admin port.
    pub advertise: String,
    pub advertise_admin: String,
    pub beat_ms: u64,
}

/// Without the token.
impl fmt::Debug for Control {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Control({} at {:?} of {:?})", self.id, self.advertise, self.configsvrs)
    }
}

/// `https`: the admin port speaks TLS.
pub(super) fn read(map: &mut Reader<'_>, listen: &[Addr], admin: SocketAddr, https: bool) -> Control {
    let configsvrs = map.get("configsvrs", Vec::new(), |node| match one_or_many(node, place_of)? {
        list if list.len() > CONFIGSVRS_MAX => Err(format!("{} members: at most {CONFIGSVRS_MAX}", list.len())),
        list => Ok(list),
    });
    map.show("configsvrs", configsvrs.clone());
    let tls = tls::read_client(map, "control", configsvrs.iter().any(|c| c.starts_with(HTTPS)));
    let token = secret(map, "token", "token_file");
    let clients = listen.first().map(ToString::to_string).unwrap_or_default();
    let anywhere = |addr: &Addr| matches!(addr, Addr::Tcp(addr) if addr.ip().is_unspecified());
    let known = !configsvrs.is_empty();
    let advertise = advertised(map, "advertise", &clients, known && listen.first().is_some_and(anywhere));
    let mut advertise_admin =
        advertised(map, "advertise_admin", &admin.to_string(), known && anywhere(&Addr::Tcp(admin)));
    let usual =
        if admin.ip().is_loopback() { format!("{}:{}", host_name(), admin.port()) } else { advertise_admin.clone() };
    if https {
        advertise_admin = format!("{HTTPS}{advertise_admin}");
    }
    let id = map.get("id", usual.clone(), |node| super::yaml::text(node).and_then(|t| good_id(&t)));
    map.show("id", id.as_str());
    let zone = text_or_nothing(map, "zone");
    let beat_ms = map.number("beat_ms", 1000, 100..=60_000);
    Control { configsvrs, tls, token, id, zone, advertise, advertise_admin, beat_ms }
}

fn text_or_nothing(map: &mut Reader<'_>, key: &'static str) -> String {
    map.text(key).map(|t| t.0).unwrap_or_default()
}

fn advertised(map: &mut Reader<'_>, key: &'static str, usual: &str, anywhere: bool) -> String {
    if let Some((given, place)) = map.text(key) {
        if let Err(why) = host_port(&given) {
            map.fault(place, format!("control.{key}: {why}"));
        }
        return given;
    }
    if anywhere {
        let why = format!("control.{key}: {usual} is every address of this machine: say the one that others use");
        map.fault(Place::default(), why);
    }
    map.show(key, usual);
    usual.to_owned()
}

/// As `host_port`, perhaps behind `https://`.
fn place_of(text: &str) -> Result<String, String> {
    host_port(text.strip_prefix(HTTPS).unwrap_or(text)).map(|_| text.to_owned())
}

/// `HOST:PORT` or `[IPV6]:PORT`.
pub(super) fn host_port(text: &str) -> Result<String, String> {
    let parts = text.rsplit_once(':').filter(|(host, _)| !host.is_empty() && !host.contains(['/', '@', ' ']));
    match parts.map(|(_, port)| port.parse::<u16>()) {
        Some(Ok(1..)) => Ok(text.to_owned()),
        _ => Err(format!("{text:?}: expected HOST:PORT")),
    }
}

/// It stands in paths of the control plane's API.
fn good_id(text: &str) -> Result<String, String> {
    let good = |c: char| c.is_ascii_alphanumeric() || ".:-_[]".contains(c);
    match text.len() <= 128 && text.chars().all(good) {
        true => Ok(text.to_owned()),
        false => Err(format!("{text:?}: at most 128 letters, digits and . : - _")),
    }
}

/// Two machines whose admin port is on loopback must not be one proxy.
fn host_name() -> String {
    let name = std::fs::read_to_string("/proc/sys/kernel/hostname").unwrap_or_default();
    good_id(name.trim()).ok().filter(|n| !n.is_empty()).unwrap_or_else(|| "localhost".into())
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Fault, Overrides, parse};

    fn of(text: &str) -> Result<Config, Vec<Fault>> {
        parse(text, &Overrides::default())
    }

    #[test]
    fn what_is_not_said_is_derived_and_stays() {
        let control = of("admin: 127.0.0.1:7001").expect("good").control;
        assert!(control.configsvrs.is_empty() && control.token.is_none());
        assert_eq!(
            (control.advertise.as_str(), control.advertise_admin.as_str()),
            ("127.0.0.1:6380", "127.0.0.1:7001")
        );
        assert!(control.id.ends_with(":7001"), "{}", control.id);
        assert_eq!(control, of("admin: 127.0.0.1:7001").expect("good").control);
        let other = of("admin: 10.0.0.1:7001\nadmin_token: x").expect("good").control;
        assert_eq!(other.id, "10.0.0.1:7001");
    }

    #[test]
    fn a_token_is_read_and_never_shown() {
        let config = of("control:\n  configsvrs: [cs1:6390, cs2:6390]\n  token: s3cret").expect("good");
        assert_eq!(config.control.token.as_deref(), Some("s3cret"));
        assert_eq!(config.control.configsvrs, ["cs1:6390", "cs2:6390"]);
        assert!(!format!("{:?}", config.control).contains("s3cret"));
        assert!(!serde_json::Value::Object(config.shown).to_string().contains("s3cret"));
    }

    #[test]
    fn faults_are_named() {
        for (text, fault) in [
            ("control:\n  configsvrs: [cs1]", "line 2 column 3: control.configsvrs: \"cs1\": expected HOST:PORT"),
            ("control:\n  configsvrs: cs1:0", "expected HOST:PORT"),
            ("control:\n  id: a/b", "control.id: \"a/b\""),
            ("control:\n  beat_ms: 5", "control.beat_ms"),
            ("control:\n  becon: 5", "unknown key `control.becon`"),
            ("control:\n  advertise: here", "control.advertise: \"here\""),
            ("listen: 0.0.0.0:1\ncontrol:\n  configsvrs: a:1", "control.advertise: 0.0.0.0:1 is every address"),
        ] {
            let faults = of(text).expect_err(text);
            assert!(faults.iter().any(|f| f.to_string().contains(fault)), "{text}: {faults:?}");
        }
        assert!(of("listen: 0.0.0.0:1").is_ok(), "nobody is told");
    }
}

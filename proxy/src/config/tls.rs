//! The sections `tls:` and `instance_tls:`: files are read here, and looked at whether they will do.
#![expect(clippy::disallowed_methods, reason = "a shell: reads files")]

use super::yaml::{Place, Reader, one_or_many};
use cluster::instance::Addr;
use cluster::tls::{Client, Fault, Identity, PEM_BYTES_MAX, Part, Server};
use std::fs;

/// What the file says about TLS.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Tls {
    /// Those addresses of `listen` at which TLS is spoken.
    pub listen: Vec<String>,
    /// Whether it is spoken at the admin port.
    pub admin: bool,
    /// How those who connect are met; there is one if there is anybody.
    pub server: Option<Server>,
    /// How instances are met; None: without TLS.
    pub instances: Option<Client>,
}

/// A file's text, and where it is named.
struct Pem {
    text: String,
    path: String,
    place: Place,
}

/// Reads the section `tls:`.
pub(super) fn read_doors(map: &mut Reader<'_>, listen: &[Addr]) -> Tls {
    let found = map.get_placed("listen", |node| one_or_many(node, str::parse::<Addr>));
    let (addrs, place) = found.unwrap_or_default();
    if let Some(other) = addrs.iter().find(|a| !listen.contains(a)) {
        map.fault(place, format!("tls.listen: {other} is not among the addresses of `listen`"));
    }
    let names: Vec<String> = addrs.iter().map(Addr::to_string).collect();
    map.show("listen", names.clone());
    let admin = map.flag("admin", false);
    let cert = pem(map, "tls", "cert_file");
    let key = pem(map, "tls", "key_file");
    let client_ca = pem(map, "tls", "client_ca_file");
    let identity = identity(map, "tls", &cert, &key);
    if identity.is_none() && cert.is_none() && key.is_none() && (admin || !names.is_empty()) {
        map.fault(place, "tls: TLS needs a certificate and its key: set `cert_file` and `key_file`");
    }
    let server =
        identity.map(|identity| Server { identity, client_ca: client_ca.as_ref().map(|pem| pem.text.clone()) });
    if let Some(Err(fault)) = server.as_ref().map(Server::config) {
        blame(map, "tls", &fault, [&cert, &key, &client_ca]);
    }
    Tls { listen: names, admin, server, instances: None }
}

/// Reads the section `instance_tls:`.
pub(super) fn read_instances(map: &mut Reader<'_>) -> Option<Client> {
    let enabled = map.flag("enabled", false);
    read_client(map, "instance_tls", enabled)
}

/// Reads how others are met, in a section that may say so; `needed`: they cannot be met without.
pub(super) fn read_client(map: &mut Reader<'_>, section: &str, needed: bool) -> Option<Client> {
    let ca = pem(map, section, "ca_file");
    let cert = pem(map, section, "cert_file");
    let key = pem(map, section, "key_file");
    let name = map.text("server_name");
    let identity = identity(map, section, &cert, &key);
    if needed && ca.is_none() {
        map.fault(
            Place::default(),
            format!("{section}.ca_file: say who signed the others' certificates: nothing can be trusted without"),
        );
    }
    let text = ca.as_ref()?.text.clone();
    let client = Client { ca: text, identity, server_name: name.as_ref().map(|t| t.0.clone()) };
    if let Err(fault) = client.config() {
        if fault.part == Part::ServerName {
            let place = name.map(|t| t.1).unwrap_or_default();
            map.fault(place, format!("{section}.server_name: {}", fault.why));
        } else {
            blame(map, section, &fault, [&cert, &key, &ca]);
        }
    }
    needed.then_some(client)
}

/// Certificate and key, which only make sense together.
fn identity(map: &mut Reader<'_>, section: &str, cert: &Option<Pem>, key: &Option<Pem>) -> Option<Identity> {
    match (cert, key) {
        (Some(cert), Some(key)) => Some(Identity { cert: cert.text.clone(), key: key.text.clone() }),
        (Some(cert), None) => {
            map.fault(cert.place, format!("{section}.cert_file: a certificate is of no use without its `key_file`"));
            None
        }
        (None, Some(key)) => {
            map.fault(key.place, format!("{section}.key_file: a key is of no use without its `cert_file`"));
            None
        }
        (None, None) => None,
    }
}

/// Says at which key the fault is; a text that could not be read has been named.
fn blame(map: &mut Reader<'_>, section: &str, fault: &Fault, [cert, key, ca]: [&Option<Pem>; 3]) {
    let ca_key = if section == "tls" { "client_ca_file" } else { "ca_file" };
    let (name, pem) = match fault.part {
        Part::Cert => ("cert_file", cert),
        Part::Key => ("key_file", key),
        Part::Ca | Part::ServerName => (ca_key, ca),
    };
    if let Some(pem) = pem {
        map.fault(pem.place, format!("{section}.{name}: {}: {}", pem.path, fault.why));
    }
}

fn pem(map: &mut Reader<'_>, section: &str, key: &'static str) -> Option<Pem> {
    let (path, place) = map.text(key)?;
    match read_file(&path) {
        Ok(text) => Some(Pem { text, path, place }),
        Err(why) => {
            map.fault(place, format!("{section}.{key}: {path}: {why}"));
            None
        }
    }
}

fn read_file(path: &str) -> Result<String, String> {
    let said = |e: std::io::Error| e.to_string();
    let about = fs::metadata(path).map_err(said)?;
    if !about.is_file() {
        return Err("is not a file".into());
    }
    if about.len() > PEM_BYTES_MAX as u64 {
        return Err(format!("{} bytes: at most {PEM_BYTES_MAX}; name only those that you need", about.len()));
    }
    fs::read_to_string(path).map_err(said)
}

#[cfg(test)]
mod tests {
    use crate::config::{Config, Fault, Overrides, parse};

    const DIR: &str = concat!(env!("CARGO_MANIFEST_DIR"), "/../cluster/src/testdata/tls");

    /// `DIR` stands for the directory of the certificates.
    fn of(text: &str) -> Result<Config, Vec<Fault>> {
        parse(&text.replace("DIR", DIR), &Overrides::default())
    }

    #[test]
    fn a_few_lines_are_enough() {
        let config = of(
            "listen: 127.0.0.1:7000\ntls:\n  listen: 127.0.0.1:7000\n  admin: true\n  cert_file: DIR/server.pem\n  \
                         key_file: DIR/server.key\ninstance_tls:\n  enabled: true\n  ca_file: DIR/ca.pem\n",
        )
        .expect("good");
        assert_eq!((config.tls.listen, config.tls.admin), (vec!["127.0.0.1:7000".to_owned()], true));
        assert!(config.tls.server.is_some_and(|s| s.client_ca.is_none()) && config.tls.instances.is_some());
        assert_eq!(config.control.advertise_admin, "https://127.0.0.1:6381");
        assert!(
            !format!("{:?}", of("tls:\n  cert_file: DIR/server.pem\n  key_file: DIR/server.key")).contains("PRIVATE")
        );
    }

    #[test]
    fn faults_are_named() {
        let doors = "listen: 127.0.0.1:7000\ntls:\n  listen: 127.0.0.1:7000\n";
        let files = |cert: &str, key: &str| format!("{doors}  cert_file: {cert}\n  key_file: {key}\n");
        for (text, fault) in [
            (
                doors.to_owned(),
                "line 3 column 3: tls: TLS needs a certificate and its key: set `cert_file` and `key_file`",
            ),
            ("tls:\n  admin: true".into(), "tls: TLS needs a certificate and its key"),
            ("tls:\n  listen: 127.0.0.1:1".into(), "tls.listen: 127.0.0.1:1 is not among the addresses of `listen`"),
            (files("DIR/none", "DIR/server.key"), "line 4 column 3: tls.cert_file: DIR/none: No such file"),
            (files("DIR/server.key", "DIR/server.key"), "tls.cert_file: DIR/server.key: no certificate in it"),
            (files("DIR/server.pem", "DIR/server.pem"), "tls.key_file: DIR/server.pem: no private key in it"),
            (
                files("DIR/server.pem", "DIR/client.key"),
                "tls.key_file: DIR/client.key: is not the key of the certificate",
            ),
            (
                files("DIR/server.pem", "DIR/server.key") + "  client_ca_file: DIR/server.key",
                "line 6 column 3: tls.client_ca_file: DIR/server.key: no certificate in it",
            ),
            (
                "tls:\n  cert_file: DIR/server.pem".into(),
                "tls.cert_file: a certificate is of no use without its `key_file`",
            ),
            ("instance_tls:\n  enabled: true".into(), "instance_tls.ca_file: say who signed"),
            (
                "instance_tls:\n  ca_file: DIR/ca.pem\n  server_name: 'a b'".into(),
                "line 3 column 3: instance_tls.server_name: ",
            ),
            ("control:\n  configsvrs: https://a:1".into(), "control.ca_file: say who signed"),
        ] {
            let faults = of(&text).expect_err(&text);
            let wanted = fault.replace("DIR", DIR);
            assert!(faults.iter().any(|f| f.to_string().contains(&wanted)), "{text}: {faults:?}");
        }
    }
}

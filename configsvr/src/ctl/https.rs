//! https for the command line: a certificate is believed if the authority of `--ca` has signed it.
#![expect(clippy::disallowed_methods, reason = "a shell: reads the authority's file")]

use super::fault::{Fault, Result};
use cluster::tls::{Caller, Client, Identity};
use rustls::{ClientConnection, StreamOwned};
use std::fmt;
use std::io::{Read, Write};
use std::path::Path;
use ureq::Error;
use ureq::unversioned::transport::{
    Buffers, ConnectionDetails, Connector, Either, LazyBuffers, NextTimeout, Transport, TransportAdapter,
};

/// Whom to believe, and who we are: `ca`, and certificate and key. None without a `ca`.
pub(super) fn caller(ca: Option<&Path>, cert: Option<&Path>, key: Option<&Path>) -> Result<Option<Caller>> {
    let Some(ca) = ca else { return Ok(None) };
    let identity = match (cert, key) {
        (Some(cert), Some(key)) => Some(Identity { cert: read(cert)?, key: read(key)? }),
        (None, None) => None,
        _ => return Err(Fault::new("a certificate and its key are of use only together", "--cert FILE --key FILE")),
    };
    let client = Client { ca: read(ca)?, identity, server_name: None };
    client.config().map(Some).map_err(|fault| {
        Fault::new(format!("{:?}: {}", fault.part, fault.why), "--ca, --cert and --key name files in PEM")
    })
}

fn read(path: &Path) -> Result<String> {
    std::fs::read_to_string(path)
        .map_err(|e| Fault::new(format!("{}: {e}", path.display()), "--ca, --cert and --key name files in PEM"))
}

/// Encrypts what goes to https.
#[derive(Debug)]
pub(super) struct Https(pub(super) Option<Caller>);

impl<In: Transport> Connector<In> for Https {
    type Out = Either<In, Encrypted>;

    fn connect(
        &self,
        details: &ConnectionDetails<'_>,
        chained: Option<In>,
    ) -> std::result::Result<Option<Self::Out>, Error> {
        let Some(transport) = chained else { return Ok(None) };
        if !details.needs_tls() {
            return Ok(Some(Either::A(transport)));
        }
        let caller = self.0.as_ref().ok_or(Error::Tls("https: say whom to trust: --ca FILE"))?;
        let name = caller.name_of(details.uri.host().unwrap_or_default());
        let name = name.map_err(|_| Error::Tls("https: this is no name that a certificate could have"))?;
        let conn = ClientConnection::new(caller.config.clone(), name).map_err(|e| Error::Other(Box::new(e)))?;
        let transport: Box<dyn Transport> = Box::new(transport);
        let mut socket = TransportAdapter::new(transport, details.current_time.clone());
        socket.set_timeout(details.timeout);
        let mut stream = StreamOwned::new(conn, socket);
        while stream.conn.is_handshaking() {
            stream.conn.complete_io(&mut stream.sock)?;
        }
        let buffers = LazyBuffers::new(details.config.input_buffer_size(), details.config.output_buffer_size());
        Ok(Some(Either::B(Encrypted { buffers, stream })))
    }
}

/// A connection to https.
pub(super) struct Encrypted {
    buffers: LazyBuffers,
    stream: StreamOwned<ClientConnection, TransportAdapter>,
}

impl fmt::Debug for Encrypted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Encrypted")
    }
}

impl Transport for Encrypted {
    fn buffers(&mut self) -> &mut dyn Buffers {
        &mut self.buffers
    }

    fn transmit_output(&mut self, amount: usize, timeout: NextTimeout) -> std::result::Result<(), Error> {
        self.stream.sock.set_timeout(timeout);
        self.stream.write_all(&self.buffers.output()[..amount])?;
        Ok(self.stream.flush()?)
    }

    fn await_input(&mut self, timeout: NextTimeout) -> std::result::Result<bool, Error> {
        self.stream.sock.set_timeout(timeout);
        let amount = self.stream.read(self.buffers.input_append_buf())?;
        self.buffers.input_appended(amount);
        Ok(amount > 0)
    }

    fn is_open(&mut self) -> bool {
        self.stream.sock.get_mut().is_open()
    }

    fn is_tls(&self) -> bool {
        true
    }
}

//! `--metrics ADDR` of `portal serve` and `portal run`.

use crate::exit::Failure;
use crate::exit::Kind;
use crate::exit::Outcome;
use crate::print;
use portal_observe::listener::Endpoint;
use portal_observe::source::Source;
use std::net::SocketAddr;

/// Serves the metrics of `source` until the process ends.
///
/// # Errors
/// [`Kind::Host`] when nothing can listen there.
pub(crate) fn serve(address: SocketAddr, source: Box<dyn Source>) -> Outcome {
    let fail = |error: std::io::Error| {
        let what = format!("cannot serve metrics on {address}: {error}");
        Failure::new(Kind::Host, what).hint("choose another port: --metrics 127.0.0.1:0 takes any")
    };
    let endpoint = Endpoint::bind(address).map_err(fail)?;
    let at = endpoint.address();
    if !at.ip().is_loopback() {
        eprintln!(
            "WARNING: whoever reaches {at} can read the metrics: names of regions and peers, and \
             what they do."
        );
    }
    endpoint.serve(source).map_err(fail)?;
    print::line(format!("metrics http://{at}/metrics"));
    Ok(())
}

//! The command line, by the names that all interop clients share.

use std::net::{IpAddr, Ipv6Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context as _, Result};
use clap::{ArgAction, Parser};
use switchboard::{
    BinaryLog, BuildError, Channel, ChannelBuilder, Compression, Credentials, FileSink, TlsConfig,
};

use crate::cases::Case;
use crate::equipment;

/// The gRPC interop client over switchboard
#[derive(Debug, Parser)]
#[command(name = "client")]
pub(crate) struct Flags {
    /// The server's host
    #[arg(long = "server_host", value_name = "HOST", default_value = "localhost")]
    server_host: String,
    /// The server's port
    #[arg(long = "server_port", value_name = "PORT")]
    #[arg(value_parser = clap::value_parser!(u16).range(1..))]
    server_port: Option<u16>,
    /// The name that the server goes by, in TLS and in :authority [default: that of its host]
    #[arg(long = "server_host_override", value_name = "HOST")]
    server_host_override: Option<String>,
    /// The case to run
    #[arg(long = "test_case", value_name = "CASE", default_value = "large_unary")]
    #[arg(value_parser = Case::parse)]
    pub(crate) test_case: Case,
    /// Connect over TLS
    #[arg(long = "use_tls", value_name = "BOOL", action = ArgAction::Set)]
    #[arg(num_args = 0..=1, default_value_t = false, default_missing_value = "true")]
    use_tls: bool,
    /// Trust the test CA in place of the platform's: name its file as well
    #[arg(long = "use_test_ca", value_name = "BOOL", action = ArgAction::Set)]
    #[arg(num_args = 0..=1, default_value_t = false, default_missing_value = "true")]
    use_test_ca: bool,
    /// The certificates to trust, in PEM [default: the platform's]
    #[arg(long = "ca_file", value_name = "FILE")]
    ca_file: Option<PathBuf>,
    /// The certificates to show to the server, in PEM: name the key as well
    #[arg(long = "client_cert_file", value_name = "FILE", requires = "client_key_file")]
    client_cert_file: Option<PathBuf>,
    /// Their private key, in PEM
    #[arg(long = "client_key_file", value_name = "FILE", requires = "client_cert_file")]
    client_key_file: Option<PathBuf>,
    /// Further servers to spread calls over: addresses with commas in between
    #[arg(long = "more_servers", value_name = "HOST:PORT,..", value_delimiter = ',')]
    more_servers: Vec<SocketAddr>,
    /// The service config of the channel
    #[arg(long = "service_config_json", value_name = "JSON")]
    service_config_json: Option<String>,
    /// Make calls with a retry policy, default deadlines and an interceptor
    #[arg(long = "equipped")]
    equipped: bool,
    /// Log all calls to this file, in gRPC's binary form
    #[arg(long = "binary_log", value_name = "FILE")]
    binary_log: Option<PathBuf>,
    #[command(flatten)]
    pub(crate) soak: Soak,
    #[command(flatten)]
    pub(crate) churn: Churn,
    #[command(flatten)]
    pub(crate) frozen: Frozen,
    #[command(flatten)]
    pub(crate) cut: Cut,
}

/// Flags of `rpc_soak` and `channel_soak`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Soak {
    /// Calls of a soak
    #[arg(long = "soak_iterations", value_name = "N", default_value_t = 10)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) iterations: u32,
    /// How many of them may fail or take too long
    #[arg(long = "soak_max_failures", value_name = "N", default_value_t = 0)]
    pub(crate) max_failures: u32,
    /// How long one may take
    #[arg(long = "soak_per_iteration_max_acceptable_latency_ms", value_name = "MS")]
    #[arg(default_value = "1000", value_parser = milliseconds)]
    pub(crate) max_latency: Duration,
    /// How long all may take
    #[arg(long = "soak_overall_timeout_seconds", value_name = "S")]
    #[arg(default_value = "10", value_parser = seconds)]
    pub(crate) overall_timeout: Duration,
    /// The least time from the start of one to the start of the next
    #[arg(long = "soak_min_time_ms_between_rpcs", value_name = "MS")]
    #[arg(default_value = "0", value_parser = milliseconds)]
    pub(crate) min_interval: Duration,
    /// Bytes of payload that each sends
    #[arg(long = "soak_request_size", value_name = "BYTES", default_value_t = 271_828)]
    #[arg(value_parser = clap::value_parser!(u32).range(..=PAYLOAD_BYTES_MAX))]
    pub(crate) request_bytes: u32,
    /// Bytes of payload that each receives
    #[arg(long = "soak_response_size", value_name = "BYTES", default_value_t = 314_159)]
    #[arg(value_parser = clap::value_parser!(u32).range(..=PAYLOAD_BYTES_MAX))]
    pub(crate) response_bytes: u32,
    /// How many callers share the calls
    #[arg(long = "soak_num_threads", value_name = "N", default_value_t = 1)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) threads: u32,
}

/// Flags of `goaway_churn`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Churn {
    /// Callers of the churn
    #[arg(long = "churn_callers", value_name = "N", default_value_t = 64)]
    #[arg(value_parser = clap::value_parser!(u32).range(1..=10_000))]
    pub(crate) callers: u32,
    /// How long they call
    #[arg(long = "churn_seconds", value_name = "S")]
    #[arg(default_value = "20", value_parser = seconds)]
    pub(crate) time: Duration,
    /// Whose client calls: `switchboard`, or `tonic` to compare with
    #[arg(long = "churn_client", value_name = "CLIENT", default_value = "switchboard")]
    pub(crate) client: ChurnClient,
}

/// A client that can make the calls of `goaway_churn`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, clap::ValueEnum)]
pub(crate) enum ChurnClient {
    Switchboard,
    Tonic,
}

/// Flags of `frozen_server`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Frozen {
    /// The process of the server that is to be stopped
    #[arg(long = "frozen_pid", value_name = "PID")]
    pub(crate) pid: Option<u32>,
}

/// Flags of `cut_peer`.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Cut {
    /// A process in the network namespace of the servers, whose routes are to be changed
    #[arg(id = "cut_pid", long = "cut_pid", value_name = "PID")]
    pub(crate) pid: Option<u32>,
}

impl Flags {
    /// What no flag alone can tell is wrong, in one line.
    pub(crate) fn check(&self) -> Result<(), String> {
        if self.server_port.is_none() {
            return Err("--server_port is missing: say where the server listens".to_owned());
        }
        if self.use_test_ca && self.ca_file.is_none() {
            return Err("--use_test_ca needs --ca_file: the test CA is not built in".to_owned());
        }
        let Soak { iterations, threads, .. } = self.soak;
        if !iterations.is_multiple_of(threads) {
            return Err(format!(
                "--soak_iterations {iterations} cannot be shared by --soak_num_threads {threads}"
            ));
        }
        let flag = |error: &BuildError| match error {
            BuildError::InvalidTarget(_) => "--server_host",
            BuildError::InvalidAuthority(_) => "--server_host_override",
            BuildError::InvalidCredentials(_) => "--use_tls",
            BuildError::InvalidServiceConfig(_) => "--service_config_json",
            _ => "a channel cannot be built",
        };
        let built = self.channel_builder()?.build();
        built.map(drop).map_err(|error| format!("{}: {error}", flag(&error)))
    }

    /// The server's address, as tonic takes it.
    pub(crate) fn uri(&self) -> String {
        format!("http://{}:{}", self.server_host, self.server_port.unwrap_or_default())
    }

    /// The addresses of all servers, the host's first.
    pub(crate) fn servers(&self) -> Result<Vec<SocketAddr>> {
        let host = self.server_host.parse::<IpAddr>();
        let host = host.context("--server_host is not the address that this case needs")?;
        let first = SocketAddr::new(host, self.server_port.unwrap_or_default());
        Ok([&[first], &self.more_servers[..]].concat())
    }

    /// The server's address as a target.
    pub(crate) fn target(&self) -> String {
        let port = self.server_port.unwrap_or_default();
        if !self.more_servers.is_empty() {
            let more: Vec<_> = self.more_servers.iter().map(ToString::to_string).collect();
            return format!("ipv4:{}:{port},{}", self.server_host, more.join(","));
        }
        match self.server_host.parse::<Ipv6Addr>() {
            Ok(host) => format!("dns:///[{host}]:{port}"),
            Err(_) => format!("dns:///{}:{port}", self.server_host),
        }
    }

    /// A channel to the server, ready to be built.
    pub(crate) fn channel_builder(&self) -> Result<ChannelBuilder, String> {
        let mut builder = Channel::builder(self.target())
            .credentials(self.credentials()?)
            .accept_compression(Compression::ALL.iter().copied());
        // With TLS the credentials say it, and it becomes the authority.
        if let Some(host) = self.server_host_override.as_ref().filter(|_| !self.use_tls) {
            builder = builder.authority(host);
        }
        if let Some(json) = &self.service_config_json {
            builder = builder.default_service_config(json);
        }
        if self.equipped {
            builder = equipment::of(builder);
        }
        if let Some(file) = &self.binary_log {
            let sink = FileSink::create(file).map_err(|error| format!("--binary_log: {error}"))?;
            let log = BinaryLog::new("*", sink).map_err(|error| error.to_string())?;
            builder = builder.observer(log);
        }
        Ok(builder)
    }

    /// Whether what is on the wire can be read.
    pub(crate) fn is_plaintext(&self) -> bool {
        !self.use_tls
    }

    fn credentials(&self) -> Result<Credentials, String> {
        if !self.use_tls {
            return Ok(Credentials::insecure());
        }
        let mut config = TlsConfig::new();
        if let Some(file) = &self.ca_file {
            config = config.roots_file(file).map_err(|error| format!("--ca_file: {error}"))?;
        }
        if let Some(host) = &self.server_host_override {
            config = config.server_name(host);
        }
        if let (Some(chain), Some(key)) = (&self.client_cert_file, &self.client_key_file) {
            config = config
                .client_certificate_files(chain, key)
                .map_err(|error| format!("--client_cert_file: {error}"))?;
        }
        Ok(Credentials::tls_with(config))
    }
}

fn milliseconds(text: &str) -> Result<Duration, std::num::ParseIntError> {
    text.parse().map(|millis: u32| Duration::from_millis(millis.into()))
}

fn seconds(text: &str) -> Result<Duration, std::num::ParseIntError> {
    text.parse().map(|secs: u32| Duration::from_secs(secs.into()))
}

/// What a server can be asked for is an `int32`, and no test needs more than this.
const PAYLOAD_BYTES_MAX: i64 = 1 << 30;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn flags_are_taken_in_both_forms() {
        let rows: [&[&str]; 2] = [
            &["--server_port=7", "--use_tls=false", "--test_case=ping_pong"],
            &["--server_port", "7", "--use_tls", "false", "--test_case", "ping_pong"],
        ];
        for row in rows {
            let flags = parse(row).unwrap();
            assert_eq!(flags.target(), "dns:///localhost:7");
            assert_eq!(flags.test_case, Case::PingPong);
            assert!(flags.is_plaintext());
            assert_eq!(flags.check(), Ok(()));
        }
        assert!(!parse(&["--use_tls"]).unwrap().is_plaintext());
        assert!(!parse(&["--use_tls", "--server_port=7"]).unwrap().is_plaintext());
    }

    #[test]
    fn an_ipv6_address_is_put_in_brackets() {
        let flags = parse(&["--server_host=::1", "--server_port=7"]).unwrap();
        assert_eq!(flags.target(), "dns:///[::1]:7");
        assert_eq!(flags.check(), Ok(()));
    }

    #[test]
    fn what_is_wrong_is_named() {
        let rows: [(&[&str], &str); 6] = [
            (&[], "--server_port"),
            (&["--server_port=7", "--use_test_ca"], "--ca_file"),
            (&["--server_port=7", "--use_tls", "--ca_file=none.pem"], "--ca_file: cannot read"),
            (&["--server_port=7", "--soak_num_threads=3"], "--soak_num_threads 3"),
            (&["--server_port=7", "--service_config_json={"], "--service_config_json"),
            (&["--server_port=7", "--server_host_override=a@b"], "--server_host_override"),
        ];
        for (row, named) in rows {
            let error = parse(row).unwrap().check().unwrap_err();
            assert!(error.contains(named), "{row:?}: {error}");
            assert!(!error.contains('\n'), "{row:?}: {error}");
        }
        for row in [["--server_port=0"], ["--test_case=none"], ["--unknown=1"], ["--use_tls=2"]] {
            assert!(parse(&row).is_err(), "{row:?}");
        }
    }

    fn parse(flags: &[&str]) -> Result<Flags, clap::Error> {
        Flags::try_parse_from(["client"].iter().chain(flags))
    }
}

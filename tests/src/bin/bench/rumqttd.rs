//! rumqttd with the configuration that it ships, as a process of its own.

use std::process::ExitCode;

/// Of the argument that makes this program that process.
pub(crate) const ARGUMENT: &str = "--as-rumqttd";

/// Its shipped `rumqttd.toml`, but for the port.
const CONFIG: &str = r#"
id = 0
[router]
id = 0
max_connections = 10010
max_outgoing_packet_count = 200
max_segment_size = 104857600
max_segment_count = 10
[v4.1]
name = "v4-1"
listen = "127.0.0.1:@PORT@"
next_connection_delay_ms = 1
[v4.1.connections]
connection_timeout_ms = 60000
max_payload_size = 20480
max_inflight_count = 100
dynamic_filters = true
"#;

/// Serves on `port`, until it is ended.
pub(crate) fn serve(port: &str) -> ExitCode {
    let config = match toml::from_str(&CONFIG.replace("@PORT@", port)) {
        Ok(config) => config,
        Err(error) => {
            eprintln!("bench: rumqttd takes its own configuration no longer: {error}");
            return ExitCode::FAILURE;
        }
    };
    match rumqttd::Broker::new(config).start() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("bench: rumqttd on port {port}: {error}");
            ExitCode::FAILURE
        }
    }
}

//! Other proxies, if they are installed.

use std::fs;
use std::process::{Command, Stdio};

use tempfile::TempDir;

use super::children::{Backends, Proxy, free_address};
use super::roles::PACED;

/// Starts nginx, HAProxy and Envoy, as far as they are on `PATH`.
pub(crate) fn installed(backends: Backends) -> Vec<Proxy> {
    [nginx(backends), haproxy(backends), envoy(backends)].into_iter().flatten().collect()
}

/// The version line of a program; `None` when it is not installed.
fn version(program: &str, flag: &str) -> Option<String> {
    let output = Command::new(program).arg(flag).output().ok()?;
    let text = [output.stdout, output.stderr].concat();
    let text = String::from_utf8_lossy(&text).into_owned();
    let number = text
        .split(|c: char| c.is_whitespace() || c == '/')
        .find(|word| word.contains('.') && word.starts_with(|c: char| c.is_ascii_digit()))?;
    Some(format!("{program} {number}"))
}

fn with_config(text: &str) -> (TempDir, std::path::PathBuf) {
    let folder = tempfile::tempdir().expect("a folder");
    let file = folder.path().join("proxy.conf");
    fs::write(&file, text).expect("the configuration");
    (folder, file)
}

fn nginx(Backends { demo, paced, .. }: Backends) -> Option<Proxy> {
    let name = version("nginx", "-v")?;
    let address = free_address();
    let (folder, file) = with_config(&format!(
        "daemon off; master_process off; worker_processes 1; pid nginx.pid; error_log stderr crit;\n\
         events {{ worker_connections 16384; }}\n\
         http {{\n access_log off; client_body_temp_path body; proxy_temp_path temp;\n\
         fastcgi_temp_path f; uwsgi_temp_path u; scgi_temp_path s;\n\
         keepalive_requests 10000000; client_max_body_size 32m; client_body_buffer_size 1m;\n\
         upstream demo {{ server {demo}; keepalive 1024; keepalive_requests 10000000; }}\n\
         server {{ listen {address};\n proxy_http_version 1.1; proxy_set_header Connection ''; proxy_buffering off;\n\
         location / {{ proxy_pass http://demo; }}\n location {PACED} {{ proxy_pass http://{paced}; }}\n}}\n}}\n"
    ));
    let mut command = Command::new("nginx");
    command.arg("-p").arg(folder.path()).arg("-c").arg(file).stderr(Stdio::null());
    Some(Proxy::start(format!("{name}, one worker"), address, &mut command, Some(folder)))
}

fn haproxy(Backends { demo, paced, .. }: Backends) -> Option<Proxy> {
    let name = version("haproxy", "-v")?;
    let address = free_address();
    let (folder, file) = with_config(&format!(
        "global\n nbthread 2\n maxconn 4096\ndefaults\n mode http\n timeout client 60s\n timeout server 60s\n\
         \x20timeout connect 5s\n http-reuse always\nfrontend f\n bind {address}\n\
         \x20use_backend paced if {{ path_beg {PACED} }}\n default_backend demo\n\
         backend demo\n server s {demo}\nbackend paced\n server s {paced}\n"
    ));
    let mut command = Command::new("haproxy");
    command.arg("-db").arg("-q").arg("-f").arg(file).stderr(Stdio::null()).stdout(Stdio::null());
    Some(Proxy::start(format!("{name}, two threads"), address, &mut command, Some(folder)))
}

fn envoy(Backends { demo, paced, .. }: Backends) -> Option<Proxy> {
    let name = version("envoy", "--version")?;
    let address = free_address();
    let endpoint = |address: std::net::SocketAddr| {
        format!("{{socket_address: {{address: {}, port_value: {}}}}}", address.ip(), address.port())
    };
    let cluster = |name: &str, address| {
        format!(
            "  - {{name: {name}, type: STATIC, connect_timeout: 5s, load_assignment: {{cluster_name: {name}, \
             endpoints: [{{lb_endpoints: [{{endpoint: {{address: {}}}}}]}}]}}}}\n",
            endpoint(address)
        )
    };
    let kind = "type.googleapis.com/envoy.extensions.filters";
    let (folder, file) = with_config(&format!(
        "static_resources:\n  listeners:\n  - address: {}\n    filter_chains:\n    - filters:\n\
         \x20     - name: envoy.filters.network.http_connection_manager\n        typed_config:\n\
         \x20         '@type': {kind}.network.http_connection_manager.v3.HttpConnectionManager\n\
         \x20         stat_prefix: bench\n          http_filters:\n          - name: envoy.filters.http.router\n\
         \x20           typed_config: {{'@type': {kind}.http.router.v3.Router}}\n          route_config:\n\
         \x20           virtual_hosts:\n            - name: all\n              domains: ['*']\n              routes:\n\
         \x20             - {{match: {{prefix: {PACED}}}, route: {{cluster: paced, timeout: 0s}}}}\n\
         \x20             - {{match: {{prefix: /}}, route: {{cluster: demo, timeout: 0s}}}}\n  clusters:\n{}{}",
        endpoint(address),
        cluster("demo", demo),
        cluster("paced", paced)
    ));
    let mut command = Command::new("envoy");
    command.args(["--concurrency", "2", "--log-level", "off", "--use-dynamic-base-id", "-c"]).arg(file);
    command.stdout(Stdio::null()).stderr(Stdio::null());
    Some(Proxy::start(format!("{name}, two threads"), address, &mut command, Some(folder)))
}

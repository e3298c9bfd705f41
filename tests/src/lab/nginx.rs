//! nginx on the lab's nodes, as a service that people run: it answers every request over HTTP with the node's name.

use std::fs;

use anyhow::Context as _;

use super::process::Process;
use super::topology::{Lab, Node};

/// nginx on a node. Dropping it kills it.
#[derive(Debug)]
pub struct Nginx {
    _process: Process,
}

impl Nginx {
    /// Starts it on `node`, on all of its addresses, port 80.
    ///
    /// # Errors
    /// When it is not installed or does not start.
    pub fn start(lab: &Lab, node: &Node) -> anyhow::Result<Self> {
        let directory = lab.directory().join(format!("nginx-{}", node.name));
        fs::create_dir_all(&directory).with_context(|| format!("making {}", directory.display()))?;
        let file = |name: &str| directory.join(name);
        fs::write(file("nginx.conf"), configuration(&node.name))
            .with_context(|| format!("writing a configuration to {}", directory.display()))?;
        let mut command = node.namespace.command("nginx");
        command.arg("-p").arg(&directory).arg("-c").arg(file("nginx.conf")).arg("-e").arg("stderr");
        let name = format!("nginx on node {}", node.name);
        Ok(Self { _process: Process::start(&name, &command, &file("log"))? })
    }
}

/// One process, which is enough for one processor, and connections that last.
fn configuration(node: &str) -> String {
    format!(
        "daemon off;\nmaster_process off;\npid nginx.pid;\nuser root;\n\
         events {{ worker_connections 4096; }}\n\
         http {{\n  access_log off;\n  keepalive_requests 1000000000;\n  keepalive_timeout 600s;\n  client_body_temp_path body;\n  \
         proxy_temp_path proxy;\n  fastcgi_temp_path fastcgi;\n  uwsgi_temp_path uwsgi;\n  scgi_temp_path scgi;\n  \
         server {{\n    listen 80;\n    listen [::]:80;\n    location / {{ return 200 \"{node}\\n\"; }}\n  }}\n}}\n"
    )
}

//! The kernel's table of sockets.

use std::net::SocketAddr;

/// A socket as `/proc/net/tcp` shows it (proc_net(5)).
pub struct Socket {
    pub local: String,
    pub remote: String,
    /// 1 is an established connection (`TCP_ESTABLISHED`).
    pub state: u8,
    /// 1 retransmission, 2 keepalive or another one, 3 TIME_WAIT, 4 zero window probe.
    pub timer: u8,
    /// Seconds until it expires.
    pub rings_after: u64,
}

/// An address as the table writes it.
pub fn hex(address: SocketAddr) -> String {
    let SocketAddr::V4(address) = address else { panic!("an IPv4 address") };
    format!("{:08X}:{:04X}", u32::from_ne_bytes(address.ip().octets()), address.port())
}

/// All TCP sockets over IPv4.
pub fn sockets() -> Vec<Socket> {
    /// `USER_HZ`, the unit of times in proc(5).
    const TICKS: u64 = 100;
    let table = std::fs::read_to_string("/proc/net/tcp").expect("proc");
    let rows = table.lines().skip(1).map(|line| line.split_whitespace().collect::<Vec<_>>());
    rows.map(|row| {
        let (timer, when) = row[5].split_once(':').expect("timer and time");
        Socket {
            local: row[1].to_owned(),
            remote: row[2].to_owned(),
            state: u8::from_str_radix(row[3], 16).expect("a state"),
            timer: timer.parse().expect("a timer"),
            rings_after: u64::from_str_radix(when, 16).expect("a time") / TICKS,
        }
    })
    .collect()
}

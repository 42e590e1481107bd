//! `[nat_discovery]`: addresses, ports and the listeners it adds.

use super::*;

fn discovery(addresses: &str) -> String {
    format!("[nat_discovery]\naddresses = [{addresses}]")
}

fn listeners(config: &Config) -> Vec<String> {
    let show = |listen: &Listen| format!("{} {}", listen.transport, listen.address);
    config.listen.iter().map(show).collect()
}

#[test]
fn it_is_off_without_addresses() {
    assert_eq!(good("").nat_discovery, None);
    assert_eq!(good("[nat_discovery]\nports = [3478, 3480]").nat_discovery, None);
}

#[test]
fn the_missing_listeners_are_added() {
    let config = good(&discovery("\"203.0.113.7\", \"203.0.113.8\""));
    // `[[listen]]` has 0.0.0.0:3478.
    let expected = ["udp 0.0.0.0:3478", "udp 203.0.113.7:3479", "udp 203.0.113.8:3479"];
    assert_eq!(listeners(&config), expected);
    assert_eq!(config.places.listen[2], "t.toml:2: nat_discovery.addresses");

    let tcp = "[[listen]]\ntransport = \"tcp\"\naddress = \"203.0.113.7:3479\"\n";
    let config = good(&format!("{tcp}{}", discovery("\"203.0.113.7\", \"203.0.113.8\"")));
    assert_eq!(config.listen.len(), 4, "TCP is no UDP");
}

#[test]
fn each_family_has_its_pair() {
    let mixed = "\"2001:db8::7\", \"203.0.113.7\", \"2001:db8::8\", \
                 { local = \"10.0.0.8\", external = \"203.0.113.8\" }";
    let found = good(&discovery(mixed)).nat_discovery.unwrap();
    let locals: Vec<_> = found.addresses.iter().flatten().map(|it| it.local.to_string()).collect();
    assert_eq!(locals, ["203.0.113.7", "10.0.0.8", "2001:db8::7", "2001:db8::8"]);
    assert_eq!(found.addresses[0][1].external.to_string(), "203.0.113.8");
}

#[test]
fn addresses_and_ports_are_two() {
    let two = &["t.toml:2: nat_discovery.addresses", "two different addresses"];
    refused(&discovery("\"203.0.113.7\""), two);
    refused(&discovery("\"203.0.113.7\", \"203.0.113.7\""), two);
    refused(&discovery("\"203.0.113.7\", \"2001:db8::7\""), two);
    refused(&discovery("\"203.0.113.7\", \"203.0.113.8\", \"203.0.113.9\""), two);
    let one_outside = "{ local = \"10.0.0.7\", external = \"203.0.113.7\" }, \
                       { local = \"10.0.0.8\", external = \"203.0.113.7\" }";
    refused(&discovery(one_outside), two);
    refused(&discovery(""), &["nat_discovery.addresses", "is empty; remove the key"]);
    refused(&discovery("\"0.0.0.0\", \"203.0.113.8\""), &["is not one address"]);
    refused(&discovery("{ local = \"10.0.0.7\" }"), &["needs both `local` and `external`"]);

    let both = discovery("\"203.0.113.7\", \"203.0.113.8\"");
    for ports in ["3478", "3478, 3478", "0, 3478", "3478, 3479, 3480"] {
        let text = format!("{both}\nports = [{ports}]");
        refused(&text, &["t.toml:3: nat_discovery.ports", "write ports = [3478, 3479]"]);
    }
    refused(&format!("{both}\nports = [3478, 70000]"), &["nat_discovery.ports", "70000"]);
    let error = error(&format!("{both}\nports = [3478, 50000]"));
    assert_eq!(error.matches("lies among the relay ports").count(), 2, "{error}");
}

#[test]
fn a_listener_of_another_kind_is_in_the_way() {
    let dtls = "[[tls.certificate]]\ncertificate = \"c.pem\"\nkey = \"k.pem\"\n\
                [[listen]]\ntransport = \"dtls\"\naddress = \"203.0.113.8:3479\"";
    let both = discovery("\"203.0.113.7\", \"203.0.113.8\"");
    let refusal = ["t.toml:2: nat_discovery.addresses", "dtls 203.0.113.8:3479", "`ports`"];
    refused(&format!("{both}\n{dtls}"), &refusal);
    let auto = dtls.replace("dtls", "auto");
    assert_eq!(good(&format!("{both}\n{auto}")).listen.len(), 3);
}

#[test]
fn private_addresses_are_a_warning() {
    let warnings = with(&discovery("\"10.0.0.7\", \"10.0.0.8\"")).unwrap().1;
    assert_eq!(warnings.len(), 2, "{warnings:?}");
    assert!(warnings[0].contains("{ local = \"10.0.0.7\", external = "), "{warnings:?}");
}

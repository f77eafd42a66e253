use clap::{Args, Subcommand};

use super::table;
use crate::exit::Failure;
use crate::network::own::Registry;

#[derive(Args, Debug)]
pub(super) struct Networks {
    #[command(subcommand)]
    verb: Verb,
}

#[derive(Subcommand, Debug)]
enum Verb {
    /// Make a network and print its name. It is forgotten when this machine is restarted.
    Create {
        /// Its IPv4 addresses. [default: the first of 10.190.1.0/24, 10.190.2.0/24, … that is free]
        #[arg(long, value_name = "SUBNET")]
        subnet: Option<String>,
        /// Its name, 12 characters at most.
        name: String,
    },
    /// List networks.
    Ls {
        /// Names only.
        #[arg(short, long)]
        quiet: bool,
    },
    /// Remove networks nobody is on.
    Rm {
        /// Their names.
        #[arg(required = true, value_name = "NETWORK")]
        names: Vec<String>,
    },
    /// Print networks and who is on them, as JSON.
    Inspect {
        /// Their names.
        #[arg(required = true, value_name = "NETWORK")]
        names: Vec<String>,
    },
}

impl Networks {
    pub(super) fn call(self) -> Result<u8, Failure> {
        let registry = Registry::of_this_machine();
        let turn = registry.turn()?;
        let called = || -> Result<(), Failure> {
            match &self.verb {
                Verb::Create { subnet, name } => {
                    println!("{}", turn.create(name, subnet.as_deref())?.name);
                }
                Verb::Ls { quiet } => {
                    let networks = turn.networks()?;
                    if *quiet {
                        networks.iter().for_each(|network| println!("{}", network.name));
                        return Ok(());
                    }
                    let mut rows =
                        vec![["NAME", "SUBNET", "BRIDGE", "CONTAINERS"].map(String::from).to_vec()];
                    for network in networks {
                        let subnet = network.words();
                        let containers = turn.leases(&network.name)?.len().to_string();
                        rows.push(vec![network.name.clone(), subnet, network.bridge(), containers]);
                    }
                    print!("{}", table(&rows));
                }
                Verb::Rm { names } => {
                    for name in names {
                        turn.remove(name)?;
                        println!("{name}");
                    }
                }
                Verb::Inspect { names } => {
                    let mut list = Vec::new();
                    for name in names {
                        let network = turn.network(name)?;
                        let containers = turn.leases(name)?;
                        let mut network = serde_json::to_value(&network)?;
                        network["containers"] = serde_json::to_value(containers)?;
                        list.push(network);
                    }
                    println!("{}", serde_json::to_string_pretty(&list)?);
                }
            }
            Ok(())
        };
        let outcome = called();
        turn.leave()?;
        outcome.map(|()| 0)
    }
}

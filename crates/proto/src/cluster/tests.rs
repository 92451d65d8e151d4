//! Messages of hosts and agent: there and back, garbage, and samples of version 1 as they have to be understood for ever.

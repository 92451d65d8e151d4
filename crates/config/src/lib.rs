//! Configuration files (HCL and JSON) as trees that know where each value stood.

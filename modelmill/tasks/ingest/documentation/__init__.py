"""The built-in web site: modules installed on this machine → documentation pages over HTTP on loopback."""

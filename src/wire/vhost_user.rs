//! vhost-user: message format, requests and their payloads (QEMU, docs/interop/vhost-user.rst).

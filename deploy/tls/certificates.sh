#!/bin/sh
# Makes an authority and one certificate for all machines of a cluster: deploy/tls/certificates.sh FOLDER
# Whoever has FOLDER's cert.pem and key.pem may run anything on the workers. Keep ca-key.pem elsewhere.
set -eu
umask 077
mkdir -p "$1"
cd "$1"
new="openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc"
$new -x509 -days 3650 -subj "/CN=cloudjob authority" -keyout ca-key.pem -out ca.pem
$new -subj "/CN=cloudjob" -keyout key.pem -out request.pem
openssl x509 -req -in request.pem -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 365 -out cert.pem
rm request.pem

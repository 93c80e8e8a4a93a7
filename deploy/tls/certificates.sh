#!/bin/sh
# Makes an authority and one certificate for all machines of a cluster: deploy/tls/certificates.sh FOLDER
# Where FOLDER has an authority already, a new certificate of that one: the old holds for a year.
# Whoever has FOLDER's cert.pem and key.pem may run anything on the workers. Keep ca-key.pem elsewhere.
set -eu
umask 077
mkdir -p "$1"
cd "$1"
new="openssl req -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -noenc"
if [ ! -e ca.pem ] && [ ! -e ca-key.pem ]; then
    $new -x509 -days 3650 -subj "/CN=cloudjob authority" -keyout ca-key.pem -out ca.pem
elif [ ! -e ca.pem ] || [ ! -e ca-key.pem ]; then
    echo "$1 has an authority, but not all of it: put both ca.pem and ca-key.pem there, or name another folder" >&2
    exit 1
fi
$new -subj "/CN=cloudjob" -keyout new-key.pem -out request.pem
openssl x509 -req -in request.pem -CA ca.pem -CAkey ca-key.pem -CAcreateserial -days 365 -out new-cert.pem
rm request.pem
mv new-key.pem key.pem
mv new-cert.pem cert.pem

#!/usr/bin/env bash
# A client of EST (RFC 7030) that is not ours: openssl and curl alone. It knows what invitations say, and nothing else.
#
#   foreign_client.sh FOLDER INVITATION INVITATION_TO_APPROVE COORDINATOR...
#
# COORDINATOR... is the command that stands for `fedsite`; FEDERATION names the federation's folder. Prints a line for
# each check, and exits with 1 when one has failed. FOLDER takes the files.
set -euo pipefail

cd "$1"
invitation=$2 to_approve=$3
coordinator=("${@:4}")
failed=0

main() {
    server=$(said "$invitation" server)
    trust_the_root "$(said "$invitation" ca_sha256)"
    enrol_and_repeat
    refusals
    renew
    wait_for_approval
    be_revoked
    exit "$failed"
}

trust_the_root() {
    curl --silent --insecure "$server/.well-known/est/cacerts" | certificates_to cacerts.pem
    csplit --silent --elide-empty-files --prefix=ca- cacerts.pem '/BEGIN CERTIFICATE/' '{*}'
    for one in ca-*; do
        if [[ $(openssl x509 -in "$one" -outform DER 2>/dev/null | sha256sum) == "$1  -" ]]; then
            mv "$one" root.pem
        fi
    done
    check "cacerts holds the root that the invitation names" openssl verify -CAfile root.pem root.pem
    check "the server shows what leads to that root" status 200 "$server/v1/federation"
}

enrol_and_repeat() {
    check "csrattrs: nothing is asked for, 204" status 204 "$(est csrattrs)"
    new_key site.key
    request site.key >site.csr
    check "enrol: 200" status 200 "$(est simpleenroll)" "${basic[@]}" "${pkcs10[@]}" --data-binary @site.csr
    certificates_to site.pem <answer
    check "the answer is certs-only PKCS#7" grep -qi '^content-type: application/pkcs7-mime; *smime-type=certs-only' headers
    check "it holds one certificate" test "$(grep -c BEGIN site.pem)" = 1
    check "it is for our key" test "$(public_key -in site.pem)" = "$(openssl pkey -in site.key -pubout)"
    check "it leads to the root" openssl verify -CAfile root.pem -untrusted cacerts.pem -purpose sslclient site.pem
    check "its name is the server's choice" test \
        "$(openssl x509 -in site.pem -noout -subject -nameopt RFC2253)" = \
        "subject=CN=$(said "$invitation" site),O=test-federation"
    check "repeat: 200" status 200 "$(est simpleenroll)" "${basic[@]}" "${pkcs10[@]}" --data-binary @site.csr
    certificates_to again.pem <answer
    check "with the same certificate" cmp site.pem again.pem
}

refusals() {
    new_key other.key
    request other.key >other.csr
    local route secret
    route=$(est simpleenroll) secret=$(said "$invitation" secret)
    check "spent token, another key: 403" status 403 "$route" "${basic[@]}" "${pkcs10[@]}" --data-binary @other.csr
    check "wrong token: 401" status 401 "$route" --user "$(said "$invitation" site):${secret%???}AAA" \
        "${pkcs10[@]}" --data-binary @other.csr
    check "which asks for Basic" grep -qi '^www-authenticate: basic realm=' headers
    check "another site's name: 401" status 401 "$route" --user "somebody:$secret" "${pkcs10[@]}" --data-binary @other.csr
    check "no token: 401" status 401 "$route" "${pkcs10[@]}" --data-binary @other.csr
    openssl genpkey -algorithm RSA -pkeyopt rsa_keygen_bits:2048 -out weak.key 2>genpkey.log
    request weak.key >weak.csr
    check "weak key: 400" status 400 "$route" "${basic_to_approve[@]}" "${pkcs10[@]}" --data-binary @weak.csr
    check "for being weak" grep -q '"key-weak"' answer
    openssl req -new -key other.key -subj / -outform PEM | base64 >twice.csr
    check "no PKCS#10: 400" status 400 "$route" "${basic_to_approve[@]}" "${pkcs10[@]}" --data-binary @twice.csr
    check "no base64: 400" status 400 "$route" "${basic_to_approve[@]}" "${pkcs10[@]}" --data-binary @root.pem
    check "another content type: 415" status 415 "$route" "${basic_to_approve[@]}" --data-binary @other.csr
}

renew() {
    local route
    route=$(est simplereenroll)
    openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-384 -out new.key
    openssl x509 -x509toreq -copy_extensions copy -in site.pem -signkey new.key | openssl req -outform DER | base64 >new.csr
    check "re-enrol without a certificate: 401" status 401 "$route" "${pkcs10[@]}" --data-binary @new.csr
    check "re-enrol: 200" status 200 "$route" "${shown[@]}" "${pkcs10[@]}" --data-binary @new.csr
    certificates_to new.pem <answer
    check "for the new key" test "$(public_key -in new.pem)" = "$(openssl pkey -in new.key -pubout)"
    check "in the same name" test "$(openssl x509 -in new.pem -noout -subject -ext subjectAltName)" = \
        "$(openssl x509 -in site.pem -noout -subject -ext subjectAltName)"
    check "both certificates are served" status 200 "$server/v1/trust" "${shown[@]}"
    check "the new one too" status 200 "$server/v1/trust" --cert new.pem --key new.key
}

wait_for_approval() {
    local route ask
    route=$(est simpleenroll)
    ask=("${basic_to_approve[@]}" "${pkcs10[@]}" --data-binary @other.csr)
    check "pending: 202" status 202 "$route" "${ask[@]}"
    check "with when to ask again" grep -qi '^retry-after: [0-9]' headers
    check "pending still: 202" status 202 "$route" "${ask[@]}"
    check "a person approves" fedsite_server site approve "$(said "$to_approve" site)" \
        --key "$(openssl pkey -in other.key -pubout -outform DER | sha256sum | cut -c1-16)"
    check "approved: 200" status 200 "$route" "${ask[@]}"
}

be_revoked() {
    check "the coordinator revokes" fedsite_server site revoke "$(said "$invitation" site)"
    check "revoked: 403" status 403 "$server/v1/trust" "${shown[@]}"
    check "no way back by re-enrolment: 403" status 403 "$(est simplereenroll)" "${shown[@]}" "${pkcs10[@]}" \
        --data-binary @new.csr
    check "nor by the old invitation: 403" status 403 "$(est simpleenroll)" "${basic[@]}" "${pkcs10[@]}" \
        --data-binary @site.csr
}

# What an invitation says: the second of its three parts is JSON in base64url.
said() {
    local body
    body=$(cut -d. -f2 <<<"$1" | tr -- '-_' '+/')
    while ((${#body} % 4)); do body+='='; done
    base64 -d <<<"$body" | sed -n "s/.*\"$2\": *\"\([^\"]*\)\".*/\1/p"
}

est() { printf '%s/.well-known/est/%s' "$server" "$1"; }

fedsite_server() { "${coordinator[@]}" server "$@" --dir "$FEDERATION"; }

new_key() { openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256 -out "$1"; }

request() { openssl req -new -key "$1" -subj /CN=whatever -outform DER | base64; }

public_key() { openssl x509 -noout -pubkey "$@"; }

certificates_to() { base64 -d | openssl pkcs7 -inform DER -print_certs | sed -n '/BEGIN/,/END/p' >"$1"; }

# status WANTED URL OPTIONS...: asks, keeps the answer in `answer` and `headers`.
status() {
    local found
    found=$(curl --silent --show-error --noproxy '*' --max-time 20 --cacert root.pem --dump-header headers \
        --output answer --write-out '%{http_code}' "${@:3}" "$2") || true
    [[ $found == "$1" ]] || { echo "  $found instead of $1: $(head -c 300 answer)"; return 1; }
}

check() {
    if "${@:2}" >said.txt 2>&1; then
        echo "ok      $1"
    else
        echo "FAILED  $1"
        cat said.txt
        failed=1
    fi
}

basic=(--user "$(said "$invitation" site):$(said "$invitation" secret)")
basic_to_approve=(--user "$(said "$to_approve" site):$(said "$to_approve" secret)")
pkcs10=(--header 'Content-Type: application/pkcs10')
shown=(--cert site.pem --key site.key)
main

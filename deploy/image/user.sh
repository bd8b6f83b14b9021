#!/bin/sh
# Makes the user that the image runs as, who owns nothing and may log in nowhere, and the folder of models.
set -eu
echo 'torchship:x:10001:10001::/tmp:/usr/sbin/nologin' >>/etc/passwd
echo 'torchship:x:10001:' >>/etc/group
mkdir -p /models

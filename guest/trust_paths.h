/* Where a sandbox has what its programs are to trust. Shared by both sides. */
#ifndef CAPLOCK_GUEST_TRUST_PATHS_H
#define CAPLOCK_GUEST_TRUST_PATHS_H

#define TRUST_CERTIFICATE "/etc/ssl/certs/caplock-ca.crt"     /* of the gate alone */
#define TRUST_BUNDLE      "/etc/ssl/certs/caplock-bundle.crt" /* with those of the image */

#endif

"""The web viewer: a page that shows the tracks of a running node, and adds objects by clicks.

It is a ROS 2 client of the node's topics and services, and a small web server:

``discovery``, ``tracked_camera``, ``service_calls``  the ROS side: cameras, pictures with tracks, service calls
``track_packets``, ``hub``                            messages as packets; connects the ROS thread with the event loop
``packets``, ``page_commands``                        a picture with its objects as bytes; commands of the browser
``access``, ``session``, ``outbox``, ``web_server``   the web side: access control, one browser's stream, the server
``static/``                                           the page: plain ES modules and CSS
``browser``                                           a headless browser for screenshots and tests
"""
